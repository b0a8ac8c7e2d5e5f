"""The script for GPUs runs, in small sizes, on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def test_it_measures_every_part(tmp_path: Path) -> None:
    out, script = tmp_path / "gpu.json", Path(__file__).with_name("gpu.py")
    parts = [f"--part={part}" for part in ("ceilings", "attention", "full", "evicting", "theirs")]
    command = [sys.executable, str(script), "--device=cpu", "--small", f"--out={out}", *parts]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, timeout=300)
    found = json.loads(out.read_text())
    assert "errors" not in found, found["errors"]
    assert [(one["length"], one["rows"] > 0) for one in found["full"]] == [(128, True), (256, True)]
    assert {one["agent"] for one in found["evicting"]} == {"streaming", "snapkv", "rkv", "foresight", "h2o"}
    assert {one["budget"] for one in found["evicting"]} == {48, 64}
    for one in found["evicting"]:
        assert one["tokens_per_second"] > 0
        assert 0.9 < one["share_score"] + one["share_evict"] + one["share_write"] <= 1.01
    assert found["theirs"][0]["tokens_per_second"] > 0 and found["ceilings"][0]["copy_bytes_per_second"] > 0
