"""A skip without an allowed reason fails the run where nothing may be skipped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")
TESTS = """
import pytest

def test_played():
    pass

def test_skipped():
    pytest.skip({reason!r})
"""


@pytest.mark.parametrize("parallel", [[], ["-n", "1"]], ids=["alone", "xdist"])
@pytest.mark.parametrize(
    ("reason", "strict", "code"),
    [("I was tired", "1", 1), ("I was tired", "", 0), ("RecordVideo needs moviepy", "1", 0)],
)
def test_an_unexpected_skip_fails(reason: str, strict: str, code: int, parallel: list[str], tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    (tmp_path / "test_it.py").write_text(TESTS.format(reason=reason))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *parallel, str(tmp_path)],
        env=os.environ | {"KV_GYM_STRICT_SKIPS": strict}, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    assert ("test_it.py::test_skipped: I was tired" in done.stdout) == (code == 1)
