"""A hub that does not answer is asked once, for a moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from kv_gym.errors import UnknownNameError
from kv_gym.llm.loading import load_llm, model_sizes
from kv_gym.problems import reach
from kv_gym.problems.reach import hub_or_stored


class Session:
    """Stands for the hub's client: it answers, or raises; whatever else is asked of it counts as a retry."""

    def __init__(self, error: Exception | None) -> None:
        self.error, self.asked = error, list[tuple[str, float]]()

    def head(self, url: str, timeout: float) -> None:
        self.asked.append((url, timeout))
        if self.error is not None:
            raise self.error


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception | None], Session]:
    """The client is told what to do; nothing is remembered and nothing is set."""

    def made(error: Exception | None) -> Session:
        session: Any = Session(error)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.utils, "get_session", lambda: session)
        monkeypatch.setattr(reach, "_last", None)
        return session  # type: ignore[no-any-return]

    return made


def test_a_silent_hub_is_left_alone(
    hub: Callable[[Exception | None], Session], caplog: pytest.LogCaptureFixture
) -> None:
    session = hub(OSError("no route\nto it"))
    for _ in range(2):
        with pytest.raises(LookupError), hub_or_stored():
            assert constants.HF_HUB_OFFLINE and huggingface_hub.is_offline_mode()
            raise LookupError
        assert not constants.HF_HUB_OFFLINE
    assert session.asked == [(constants.ENDPOINT, reach.PATIENCE)], "it is asked once a minute"
    (line,) = caplog.messages
    assert "does not answer (OSError: no route): only what is stored here is used." in line


def test_a_hub_that_answers_is_used(hub: Callable[[Exception | None], Session]) -> None:
    session = hub(None)
    with hub_or_stored():
        assert not constants.HF_HUB_OFFLINE
    assert len(session.asked) == 1


def test_who_wants_to_be_offline_is(
    hub: Callable[[Exception | None], Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = hub(None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with hub_or_stored():
        pass
    assert constants.HF_HUB_OFFLINE and not session.asked


@pytest.mark.parametrize("ask", [load_llm, model_sizes])
def test_a_model_that_is_not_here_is_refused_at_once(
    ask: Callable[[str], object], hub: Callable[[Exception | None], Session]
) -> None:
    session, start = hub(OSError("no route")), time.monotonic()
    with pytest.raises(UnknownNameError, match="nor reachable on the Hugging Face hub"):
        ask("nobody/has-this-model")
    assert time.monotonic() - start < 5 and len(session.asked) == 1
    ask("tiny")
    assert len(session.asked) == 1
