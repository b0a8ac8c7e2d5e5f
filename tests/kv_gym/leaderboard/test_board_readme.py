"""The ranking as Markdown."""

from __future__ import annotations

from made_submissions import ENV, OTHER, board, protocol, submission

from kv_gym.leaderboard.readme import escaped, readme


def test_table_by_hand() -> None:
    """Random 0 of 4 everywhere; the agent 2 and 4 of 4, so 75."""
    rules = protocol({ENV: [64, 96]}, 4)
    random = submission("random", {(ENV, 64): [0.0] * 4, (ENV, 96): [0.0] * 4})
    mine = submission(
        "mine", {(ENV, 64): [1.0, 0.0, 1.0, 0.0], (ENV, 96): [1.0] * 4}, title="Mine", agent_kind="checkpoint"
    )
    text = readme(board([random, mine], rules), rules)
    assert "| rank | agent | kind | score | 64 | 96 |\n|---:|---|---|---:|---:|---:|\n" in text
    assert "| 1 | Mine | learned | 75.0 [50, 100] | 50 | 100 |\n" in text
    assert "| 2 | random | heuristic | 0.0 [0, 0] | 0 | 0 |\n" in text
    assert "|  | *Full cache* | full cache | 100.0 [100, 100] | 100 | 100 |\n" in text
    assert "docs/submitting.md" in text and "`results/<env id>/` holds" in text and "Open division" not in text


def test_several_envs_name_their_columns_and_incomplete_entries_say_what_they_lack() -> None:
    rules = protocol({ENV: [64], OTHER: [32]}, 4)
    random = submission("random", {(ENV, 64): [0.0] * 4, (OTHER, 32): [0.0] * 4}, division="closed")
    half = submission("half", {(ENV, 64): [1.0] * 4})
    text = readme(board([random, half], rules), rules)
    assert f"| {ENV} 64 | {OTHER} 32 |" in text
    assert f"- half: lacks 4 of 4 episodes of {OTHER} at budget 32\n" in text


def test_an_empty_board_says_so() -> None:
    rules = protocol({ENV: [64]}, 4)
    assert "No submissions yet." in readme(board([], rules), rules)


def test_markup_of_submitters_is_text() -> None:
    assert escaped("R-KV (0.5), tuned") == "R-KV (0.5), tuned"
    assert escaped("a|b\n# c\u202e") == "a&#124;b &#35; c"
    assert escaped("[x](http://y) <b> `c` *d* _e_ ~f~ &amp;") == (
        "&#91;x&#93;(http&#58;//y) &#60;b&#62; &#96;c&#96; &#42;d&#42; &#95;e&#95; &#126;f&#126; &#38;amp&#59;"
    )
    assert escaped("WWW.example.com me@example.com") == "WWW&#46;example.com me&#64;example.com"
