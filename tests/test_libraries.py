"""docs/libraries.md: every block runs, and the table says what Gymnasium's wrappers do."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "libraries.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_block_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    made: dict[str, object] = {}
    exec(compile(block, str(PAGE), "exec"), made)
    assert {"env", "OldestFirst"} & set(made), "a block makes an environment or an agent"
