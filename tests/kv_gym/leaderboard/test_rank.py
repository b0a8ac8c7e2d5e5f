"""Boards of a few problems, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_submissions import ENV, OTHER, protocol, submission
from made_submissions import board as ranked

from kv_gym.leaderboard.players import RankError
from kv_gym.leaderboard.rank import Board, Standing, add_preview, read_submissions

N = 40
ONE = protocol({ENV: [64]}, N)


def first(n: int, total: int = N) -> list[float]:
    """The first `n` problems are right."""
    return [1.0] * n + [0.0] * (total - n)


def last(n: int, total: int = N) -> list[float]:
    return first(n, total)[::-1]


def one(slug: str, right: list[float], **changed: object) -> object:
    return submission(slug, {(ENV, 64): right}, **changed)


def by_slug(board: Board) -> dict[str, Standing]:
    return {standing.slug: standing for standing in board.standings}


def test_scores_are_means_over_budgets_then_envs() -> None:
    """Random is right in 0 and 1 of 4; the agent in 2, 4 (first env) and 2 (second env): (50 + 100) / 2, then 33.3."""
    rules = protocol({ENV: [64, 96], OTHER: [32]}, 4)
    random = submission("random", {(ENV, 64): first(0, 4), (ENV, 96): first(0, 4), (OTHER, 32): first(1, 4)})
    agent = submission("mine", {(ENV, 64): first(2, 4), (ENV, 96): first(4, 4), (OTHER, 32): first(2, 4)})
    mine = by_slug(ranked([random, agent], rules))["mine"]
    assert [cell.score.value for cell in mine.cells] == pytest.approx([50, 100, 100 / 3])
    assert [cell.accuracy.value for cell in mine.cells] == pytest.approx([0.5, 1, 0.5])
    assert mine.score.value == pytest.approx((75 + 100 / 3) / 2)


def test_random_is_0_and_cells_say_the_ends_of_the_scale() -> None:
    board = ranked([one("random", first(4), full=0.9)], ONE)
    assert by_slug(board)["random"].score.value == by_slug(board)["random"].score.high == 0
    [cell] = board.cells
    assert (cell.random, cell.full, cell.n_problems) == (pytest.approx(0.1), pytest.approx(0.9), N)


def test_seeds_are_averaged_within_their_problem() -> None:
    """Problem 0 is right in one of two seeds, problem 1 in both: 0.75 of the way from 0 to 1."""
    rules = protocol({ENV: [64]}, 2, seeds=2)
    random = submission("random", {(ENV, 64): [[0.0, 0.0], [0.0, 0.0]]})
    agent = submission("mine", {(ENV, 64): [[1.0, 0.0], [1.0, 1.0]]})
    assert by_slug(ranked([random, agent], rules))["mine"].score.value == pytest.approx(75)


def test_rank_is_one_plus_the_number_of_better_entries() -> None:
    """32 right, 18 twice (the same ones), 16 others that cannot be told from those, and random with none."""
    board = ranked(
        [one("random", first(0)), one("best", first(32)), one("left", first(18)), one("same", first(18)),
         one("right", last(16))], ONE,
    )  # fmt: skip
    ranks = {standing.slug: standing.rank for standing in board.of_role("entry")}
    assert ranks == {"best": 1, "left": 2, "same": 2, "right": 2, "random": 5}
    assert [standing.slug for standing in board.of_role("entry")] == ["best", "left", "same", "right", "random"]
    assert by_slug(board)["left"].ties == ["right", "same"] and by_slug(board)["best"].ties == []


def test_next_is_the_line_below_and_its_difference_is_paired() -> None:
    board = ranked([one("random", first(0)), one("best", first(32)), one("left", first(18))], ONE)
    best, random = by_slug(board)["best"], by_slug(board)["random"]
    assert best.next == "left" and best.better_than_next.value == pytest.approx(100 * (32 - 18) / N)
    assert 0 < best.better_than_next.low < 35 < best.better_than_next.high
    assert random.next is None and random.better_than_next is None


def test_a_tie_need_not_be_shared_by_all() -> None:
    # a > c, while b is tied with both: b ranks first with a, and only a is better than c
    a, b, c = first(24), first(12, 12) + [0.0] * 14 + first(6, 14), first(14)
    board = ranked([one("random", first(0)), one("a", a), one("b", b), one("c", c)], ONE)
    found = by_slug(board)
    assert found["b"].ties == ["a", "c"] and found["a"].ties == ["b"]
    assert [found[slug].rank for slug in "abc"] == [1, 1, 2]
    assert [found[slug].ranks for slug in "abc"] == ["1-2", "1-3", "2-3"]


def test_lines_are_not_ranked() -> None:
    golden = one("golden", first(39), agent_uses_hindsight=True)
    full = one("full", first(40), agent_evicts=False)
    board = ranked([golden, full, one("random", first(1)), one("mine", first(30))], ONE)
    assert [(s.slug, s.kind, s.rank) for s in board.of_role("line")] == [
        ("full", "full cache", None), ("golden", "hindsight", None),
    ]  # fmt: skip
    assert by_slug(board)["full"].score.value == pytest.approx(100)
    assert by_slug(board)["mine"].rank == 1 and by_slug(board)["mine"].ties == []


def test_the_full_cache_is_a_line_without_a_submission_of_it() -> None:
    [line] = ranked([one("random", first(1), full=0.8)], ONE).of_role("line")
    assert (line.slug, line.score.value, line.cells[0].accuracy.value) == ("full_cache", 100, pytest.approx(0.8))


def test_divisions_are_ranked_apart() -> None:
    board = ranked([one("random", first(0)), one("closed", first(20)), one("free", first(30), division="open")], ONE)
    found = by_slug(board)
    assert found["free"].rank == found["closed"].rank == 1
    assert found["free"].next is None and found["closed"].next == "random"
    assert [standing.division for standing in board.of_role("entry")] == ["closed", "closed", "open"]


def test_an_entry_that_lacks_an_episode_is_listed_without_a_rank() -> None:
    board = ranked([one("random", first(0)), one("short", first(39, 39))], ONE)
    [short] = board.of_role("incomplete")
    assert (short.rank, short.score) == (None, None) and short.cells[0].accuracy.value == 1
    assert short.missing == [f"lacks 1 of 40 episodes of {ENV} at budget 64"]


def test_an_entry_that_lacks_a_cell_or_played_by_other_rules_has_no_rank() -> None:
    rules = protocol({ENV: [64, 96]}, N)
    random = submission("random", {(ENV, 64): first(0), (ENV, 96): first(0)})
    other = submission("other", {(ENV, 64): first(9), (ENV, 96): first(9)}, protocol="kv-gym-0")
    changed = submission("changed", {(ENV, 64): first(9), (ENV, 96): first(9)}, protocol_sha256="9" * 64)
    board = ranked([random, one("half", first(9)), other, changed], rules)
    found = {standing.slug: standing.missing for standing in board.of_role("incomplete")}
    assert found["half"] == [f"lacks 40 of 40 episodes of {ENV} at budget 96"]
    assert found["changed"] == ["played by another version of protocol kv-gym-1 (sha256 999999999999...)"]
    assert found["other"] == ["played by protocol kv-gym-0, not kv-gym-1"]


def test_trials_are_left_out_and_the_newest_of_a_slug_counts() -> None:
    board = ranked(
        [one("random", first(0)), one("mine", first(30), date="2026-12-01"), one("mine", first(9)),
         one("try", first(40), trial=True)], ONE,
    )  # fmt: skip
    assert board.n_trials == 1 and "try" not in by_slug(board)
    mine = by_slug(board)["mine"]
    assert (mine.date, mine.replaced, mine.cells[0].accuracy.value) == ("2026-12-01", 1, pytest.approx(0.75))


def test_kinds() -> None:
    board = ranked(
        [one("random", first(0)), one("net", first(9), agent_kind="checkpoint"),
         one("mine", first(9), agent_kind="file", agent_trained="on golden labels"), one("rule", first(9))], ONE,
    )  # fmt: skip
    assert {s.slug: s.kind for s in board.of_role("entry")} == {
        "random": "heuristic", "net": "learned", "mine": "learned", "rule": "heuristic",
    }  # fmt: skip


def test_what_cannot_be_measured_is_an_error() -> None:
    impostor = one("random", first(0), agent_kind="file")
    with pytest.raises(RankError, match=r"none of these 2 submissions is of the agent 'random'"):
        ranked([one("mine", first(3)), impostor], ONE)
    with pytest.raises(RankError, match=r"incomplete: lacks 2 of 40 episodes"):
        ranked([one("random", first(0, 38))], ONE)
    with pytest.raises(RankError, match=r"right in 12\.0% and random eviction in 10\.0%"):
        ranked([one("random", first(4), full=0.12)], ONE)
    with pytest.raises(RankError, match="there is no folder nowhere"):
        read_submissions(Path("nowhere"))


def test_an_empty_board_is_a_board() -> None:
    assert ranked([], ONE).standings == []
    assert ranked([one("try", first(1), trial=True)], ONE).n_trials == 1


def test_the_same_submissions_in_any_order_give_the_same_json() -> None:
    found = [one("random", first(0)), one("a", first(9)), one("b", first(9)), one("c", last(12))]
    texts = {json.dumps(ranked(order, ONE).to_json()) for order in (found, found[::-1])}
    assert len(texts) == 1


def test_a_folder_that_holds_no_submission_is_named(tmp_path: Path) -> None:
    (tmp_path / "2026-11-23_mine").mkdir()
    with pytest.raises(
        RankError, match=r"2026-11-23_mine cannot be read\. .*submission\.json is missing.* submit check"
    ):
        read_submissions(tmp_path)
    (tmp_path / "2026-11-23_mine" / "submission.json").write_text("{}")
    with pytest.raises(RankError, match=r"2026-11-23_mine cannot be read\. title: Field required"):
        read_submissions(tmp_path)


def test_a_previewed_trial_is_shown_without_a_rank_beside_the_entry_of_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three of four problems at a budget of the board, two of two at another; nothing else on the board moves."""
    entries = [one("random", first(0)), one("mine", first(8))]
    cells = {(ENV, 64): first(3, 4), (ENV, 96): first(2, 2)}
    trial = submission("mine", cells, title="Mine", trial=True, reduced={"problems": 4, "budgets": [64, 96]})
    monkeypatch.setattr("kv_gym.leaderboard.rank.read_submission", lambda _: trial)
    board, without = ranked(add_preview(entries, Path("trial")), ONE), ranked(entries, ONE)
    [*others, shown] = board.standings
    assert others == without.standings and board.n_trials == 0
    assert (shown.title, shown.slug, shown.role, shown.rank, shown.score) == (
        "Mine (trial)", "mine_trial", "incomplete", None, None,
    )  # fmt: skip
    assert shown.cells[0].accuracy.value == 0.75
    assert shown.missing == [
        "a trial, no leaderboard entry: played 4 problems an environment at budgets 64, 96",
        f"2 of 2 episodes of {ENV} at budget 96 right",
    ]
    assert ranked([*entries, trial], ONE).n_trials == 1, "only what is previewed is shown"


def test_a_preview_of_a_real_submission_is_ranked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [one("random", first(0)), one("mine", first(8))]
    monkeypatch.setattr("kv_gym.leaderboard.rank.read_submission", lambda _: entries[1])
    for found in (entries, entries[:1]):
        board = ranked(add_preview(found, entries[1].folder), ONE)
        assert [(x.slug, x.replaced) for x in board.of_role("entry")] == [("mine", 0), ("random", 0)]


def test_a_preview_needs_something_to_be_compared_with(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = one("mine", first(3, 4), trial=True)
    monkeypatch.setattr("kv_gym.leaderboard.rank.read_submission", lambda _: trial)
    with pytest.raises(RankError, match="none of these 0 submissions is of the agent 'random'"):
        ranked(add_preview([], Path("trial")), ONE)
