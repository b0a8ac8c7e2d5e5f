"""What a newcomer does, from an installed wheel in an empty folder, with fewer problems."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from from_wheel import ROOT, installed


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return installed(tmp_path_factory.mktemp("wheel"))


def run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_the_wheel_is_what_runs(wheel: dict[str, str], tmp_path: Path) -> None:
    where = run(
        ["python", "-c", "import kv_gym, kv_agents; print(kv_gym.__file__, kv_agents.__file__)"], tmp_path, wheel
    )
    assert str(ROOT) not in where and where.count("/site/") == 2
    assert "rkv" in run(["kv-gym", "agents"], tmp_path, wheel)


@pytest.mark.slow
def test_a_rule_of_your_own(wheel: dict[str, str], tmp_path: Path) -> None:
    """Written, tested, ranked with p-values, swept, explained, and a table for LaTeX."""
    told = run(["bash", str(ROOT / "examples/own_rule.sh")], tmp_path, wheel | {"PROBLEMS": "1"})
    assert "1 passed" in told and "Difference to recent-hits" in told and "layer 3, KV head 1" in told
    assert r"\begin{tabular}" in (tmp_path / "runs/table.tex").read_text(encoding="utf-8")
    page = (tmp_path / "runs/explain.html").read_text(encoding="utf-8")
    assert "recent-hits" in page and "http://" not in page.replace("http://www.w3.org", "")
    assert (tmp_path / "runs/sweep.png").stat().st_size > 10_000 and (tmp_path / "runs/explain.png").exists()
    rows = (tmp_path / "runs/bench/KVEvict-AIME-v0/rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(row)["agent"] for row in rows if '"episode"' in row} >= {"recent-hits", "rkv", "golden"}
