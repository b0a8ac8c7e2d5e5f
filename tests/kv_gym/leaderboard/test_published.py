"""What lies in `leaderboards/`: every submission has the right form, and the pages are those of the submissions."""

from __future__ import annotations

from pathlib import Path

import pytest

from kv_gym.bench.progress import Silent
from kv_gym.commands import main as cli
from kv_gym.leaderboard.protocol import read_protocol
from kv_gym.leaderboard.verify import check_submission

BOARD = Path(__file__).parents[3] / "leaderboards"
SUBMISSIONS = sorted(path for path in (BOARD / "submissions").iterdir() if path.is_dir())


@pytest.mark.parametrize("folder", SUBMISSIONS, ids=lambda path: path.name)
def test_every_submission_has_the_right_form(folder: Path) -> None:
    verdict = check_submission(folder, read_protocol(), "schema", Silent())
    assert verdict.ok, verdict.findings


def test_the_pages_are_those_of_the_submissions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(SUBMISSIONS) > 20
    site, readme = tmp_path / "index.html", tmp_path / "README.md"
    outputs = ["--out", str(site), "--readme", str(readme)]
    with pytest.raises(SystemExit) as end:
        cli.main(["leaderboard", "build", "--submissions", str(BOARD / "submissions"), *outputs])
    assert end.value.code in (0, None)
    assert readme.read_text() == (BOARD / "README.md").read_text(), "run: kv-gym leaderboard build"
    assert site.read_text() == (BOARD / "site" / "index.html").read_text(), "run: kv-gym leaderboard build"
