"""Who waits is told what for, once, and nobody else is."""

from __future__ import annotations

import time

import pytest

from kv_gym.envs.waiting import QUIET, told_if_slow


def test_what_is_slow_is_told_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv(QUIET)
    with told_if_slow("bread is being baked", 0.01):
        time.sleep(0.3)
    assert capsys.readouterr().err == "kv-gym: bread is being baked (KV_GYM_QUIET=1 silences this).\n"


def test_what_is_quick_is_not_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv(QUIET)
    with told_if_slow("bread is being baked", 0.1):
        pass
    with pytest.raises(LookupError), told_if_slow("bread is being baked", 0.1):
        raise LookupError
    time.sleep(0.3)
    assert capsys.readouterr().err == ""


def test_it_can_be_silenced(capsys: pytest.CaptureFixture[str]) -> None:
    with told_if_slow("bread is being baked", 0.01):
        time.sleep(0.1)
    assert capsys.readouterr().err == ""
