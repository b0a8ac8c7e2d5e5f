"""Code on the pages that tells how to add something is code that is known to work."""

from __future__ import annotations

import ast
import re
import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from plugin import pretend
from test_additions import FEATURE, MEASURE, TERM

from kv_gym.commands.main import main
from kv_gym.commands.train import GROUP

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S)


def meant(code: str) -> str:
    """Code without layout; declarations stand in a tuple, and end with a comma."""
    return ast.dump(ast.parse(f"({textwrap.dedent(code).strip().removesuffix(',')},)"))


@pytest.mark.parametrize("added", [TERM, MEASURE, FEATURE], ids=["term", "measure", "feature"])
def test_declarations_are_those_that_test_additions_plays(added: str) -> None:
    kind = added.split("(")[0].strip()
    [shown] = [block for block in blocks("extending.md") if block.startswith(f"{kind}(")]
    assert meant(shown) == meant(added)


def test_the_domain_is_a_source() -> None:
    [block] = [block for block in blocks("extending.md") if "class Sums" in block]
    made: dict[str, type] = {}
    exec(compile(block, "extending.md", "exec"), made)
    source = made["Sums"]()
    first, again, other = (source.problem(split, 0, 5) for split in ("train", "train", "test"))
    assert first == again != other and first.id == "sums/train/0/5"
    given = [int(number) for number in re.findall(r"=(\d{3})", first.prompt)]
    assert int(first.answer) == sum(given) % 1000 and len(given) == 3


def test_the_training_runs_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [block] = [block for block in blocks("training.md") if "class Trainer" in block]
    (tmp_path / "my_training.py").write_text(block, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    pretend(monkeypatch, GROUP, [EntryPoint("mine", "my_training:training", GROUP)])
    work = ["--work", "runs/work"]
    for options in (["--set", "rounds=3", *work], ["--set", "rounds=5", *work], ["--help"]):
        with pytest.raises(SystemExit) as ended:
            main(["train", "mine", *options])
        assert not ended.value.code
    assert Path("runs/mine.txt").read_text() == "5 rounds" and "How often." in capsys.readouterr().out
