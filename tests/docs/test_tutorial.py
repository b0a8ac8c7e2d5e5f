"""docs/tutorial.md: every block runs, in its order and in one folder, with fewer problems and steps."""

from __future__ import annotations

import glob
import re
import shlex
from pathlib import Path

import pytest

from kv_gym.commands.main import main

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"), re.S)
SHORTER = {
    "--problems 16": "--problems 1 --mode generate",
    "--problems 4": "--problems 1",
    "steps=8192": "steps=64 --set horizon=16 --set batch=32",
    "width=16": "width=2",
    "n_train=64": "n_train=2",
    "n_validation=16": "n_validation=2",
    "evaluate_every=2048": "evaluate_every=64",
}


def run_command(line: str) -> None:
    """Run a line of the shell, as far as such lines go here."""
    program, *words = shlex.split(line)
    assert program == "kv-gym"
    arguments = [found for word in words for found in (glob.glob(word) if "*" in word else [word])]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert not ended.value.code, line


@pytest.mark.slow
def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("leaderboards").symlink_to(ROOT / "leaderboards")
    unused = set(SHORTER)
    for language, block in BLOCKS:
        if named := re.match(r"# (\w+\.py)\n", block):
            Path(named[1]).write_text(block, encoding="utf-8")
        elif language == "python":
            exec(compile(block, "tutorial.md", "exec"), {})
        else:
            assert language == "bash"
            for line in block.splitlines():
                unused -= {long for long in SHORTER if long in line}
                for long, short in SHORTER.items():
                    line = line.replace(long, short)
                run_command(line)
    told = capsys.readouterr().out
    assert "slots (4, 2, 112, 26)" in told and "return " in told and "newest-first" in told
    assert Path("runs/my-ppo.png").exists() and "ppo[my-ppo]" in told and "Difference to random" in told
    assert "Newest first" in Path("runs/preview.html").read_text(encoding="utf-8")
    assert not unused, "these are no longer on the page"
