"""`kv-gym leaderboard rank` and `build`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from made_submissions import ENV, protocol, submission

from kv_gym.commands.main import main

RULES = protocol({ENV: [64]}, 4)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three submissions and what else may lie there; reading and protocol are those of these tests."""
    right = {"random": [0.0] * 4, "mine": [1.0, 1.0, 1.0, 0.0], "short": [1.0]}
    made = {
        slug: submission(slug, {(ENV, 64): one}, title=f"[red]{slug}[/red]\x1b", protocol_sha256=RULES.sha256)
        for slug, one in right.items()
    }
    place = tmp_path / "submissions"
    for slug in [*made, ".git"]:
        (place / slug).mkdir(parents=True)
    (place / "README.md").write_text("nothing to read here")
    monkeypatch.setattr("kv_gym.leaderboard.rank.read_submission", lambda one: made[one.name])
    monkeypatch.setattr("kv_gym.leaderboard.protocol.read_protocol", lambda: RULES)
    return place


def test_rank_prints_a_table_with_titles_as_they_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["leaderboard", "rank", str(folder)])
    out, said = capsys.readouterr()
    [mine] = [line for line in out.splitlines() if "mine" in line]
    assert mine.split()[:3] == ["1", "closed", "[red]mine[/red]"] and "75.0 [" in mine and "75%" in mine
    assert "\x1b" not in out + said and "lacks 3 of 4 episodes" in said


def test_rank_prints_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["leaderboard", "rank", str(folder), "--json"])
    board = json.loads(capsys.readouterr().out)
    assert [(one["slug"], one["role"], one["rank"]) for one in board["standings"]] == [
        ("mine", "entry", 1), ("random", "entry", 2), ("full_cache", "line", None), ("short", "incomplete", None),
    ]  # fmt: skip


def test_build_writes_the_site_and_the_readme(folder: Path, tmp_path: Path) -> None:
    out, readme = tmp_path / "site" / "index.html", tmp_path / "README.md"
    command = ["leaderboard", "build", "--submissions", str(folder), "--out", str(out), "--readme", str(readme)]
    for _ in range(2):
        with pytest.raises(SystemExit, match="0"):
            main(command)
        first = out.read_bytes(), readme.read_bytes()
    assert first == (out.read_bytes(), readme.read_bytes())
    assert first[0].startswith(b"<!doctype html>") and b"# Leaderboard" in first[1]


def test_build_shows_a_preview_and_leaves_the_board_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The trial stands on a page of its own under `runs/`; the board's page and README are not written."""
    trial = submission("trial", {(ENV, 64): [1.0, 0.0]}, title="T", trial=True, reduced={"problems": 2, "budgets": []})
    real = sys.modules["kv_gym.leaderboard.rank"].read_submission
    monkeypatch.setattr("kv_gym.leaderboard.rank.read_submission", lambda x: trial if x.name == "t" else real(x))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="0"):
        main(["leaderboard", "build", "--submissions", str(folder), "--preview", "elsewhere/t"])
    html = (tmp_path / "runs" / "preview.html").read_text()
    assert "a trial, no leaderboard entry: played 2 problems an environment at all budgets" in html
    assert '"title":"T (trial)"' in html and not (tmp_path / "leaderboards").exists()
    assert "runs/preview.html" in capsys.readouterr().err


def test_a_missing_folder_ends_with_2_and_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["leaderboard", "rank", str(tmp_path / "nowhere")])
    assert capsys.readouterr().err.startswith("RankError: there is no folder")


def test_the_command_line_loads_no_torch() -> None:
    code = "import sys, kv_gym.commands.main; sys.exit(bool({'torch', 'pydantic', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (["--author", ""], "authors.0: String should have at least 1"),
        (["--author", "me", "--title", "t" * 201], "title: String should have at most 200"),
        (["--author", "me", "--link", "paper"], "link: String should match"),
    ],
)
def test_what_the_board_would_refuse_is_said_before_anything_is_played(
    said: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kv_gym.leaderboard.submit.make_submission", None)
    with pytest.raises(SystemExit, match="2"):
        main(["submit", "new", "random", "--out", str(tmp_path), *said])
    assert complaint in " ".join(capsys.readouterr().err.split()) and not list(tmp_path.iterdir())
