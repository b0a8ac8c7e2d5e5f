"""`compare` is `kv-gym bench` from Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from kv_gym.agents import load_agent
from kv_gym.bench.benchmark import run_bench
from kv_gym.bench.compare import compare
from kv_gym.bench.plan import Bench
from kv_gym.bench.report import build_report
from kv_gym.bench.tables import text
from kv_gym.errors import ConfigError
from kv_gym.files import ROWS_FILE

OPTIONS = {"evict_every": 4, "max_new_tokens": 128}


def test_it_gives_the_report_of_the_bench_and_keeps_rows_where_asked(tmp_path: Path) -> None:
    agents = [load_agent("rkv"), "streaming"]
    plan = Bench(
        "KVEvict-AIME-v0", [load_agent("rkv"), load_agent("streaming")], (52,), 2, modes=("replay",), options=OPTIONS
    )
    result = run_bench(plan, tmp_path / "bench" / ROWS_FILE)
    wanted = build_report(result.rows, result.runs)
    kept = tmp_path / "kept"
    found = compare("KVEvict-AIME-v0", agents, [52], 2, ["replay"], kept, **OPTIONS)
    assert [(cell.agent, cell.measures) for cell in found.cells] == [
        (cell.agent, cell.measures) for cell in wanted.cells
    ]
    assert found.cells[0].measures["loss_ratio"] is not None
    first = (kept / ROWS_FILE).read_bytes()
    again = compare("KVEvict-AIME-v0", agents, [52], 2, ["replay"], kept, **OPTIONS)
    assert (kept / ROWS_FILE).read_bytes() == first and text(again) == text(found)
    assert "| rkv |" in text(found) and "52" in text(found)


def test_mistakes_are_told() -> None:
    with pytest.raises(ConfigError, match="give lists"):
        compare("KVEvict-AIME-v0", "h2o")
    with pytest.raises(ConfigError, match="give lists"):
        compare("KVEvict-AIME-v0", ["h2o"], modes="replay")  # type: ignore[arg-type]
    for option in ({"mode": "replay"}, {"split": "train"}, {"shadow": True}):
        with pytest.raises(ConfigError, match="give modes"):
            compare("KVEvict-AIME-v0", ["h2o"], **option)
