"""Options: each mistake is a typed error that names the value, the rule and the fix."""

from __future__ import annotations

from typing import Any

import gymnasium
import pytest

import kv_gym  # noqa: F401
from kv_gym.config import EnvConfig, env_page, make_config
from kv_gym.errors import BudgetError, ConfigError, KVGymError, UnknownNameError, UnknownOptionError
from kv_gym.registry import env_ids

ENV = "KVEvict-AIME-v0"

MISTAKES: dict[str, tuple[dict[str, Any], type[KVGymError], str]] = {
    "unknown option": (
        {"bugdet": 64},
        UnknownOptionError,
        "option 'bugdet'. Did you mean 'budget'.*Known: .*See `kv-gym envs --page KVEvict-AIME-v0`",
    ),
    "protection fills the budget": (
        {"budget": 32, "n_sink": 16, "n_recent": 16},
        BudgetError,
        "budget=32 leaves nothing.*n_sink=16 . n_recent=16.*budget >= 33 or lower n_recent",
    ),
    "default recent window": ({"budget": 16}, BudgetError, "budget=16.*n_recent=16.*budget >= 17"),
    "no budget": ({"budget": 0}, ConfigError, "budget=0 is not allowed: .*greater than or equal to 1"),
    "wrong type": ({"budget": "much"}, ConfigError, "budget='much' is not allowed: .*integer"),
    "unknown choice": ({"action": "guess"}, ConfigError, "action='guess' is not allowed: .*'scores', 'mask' or 'slot'"),
    "two mistakes": ({"top_p": 2, "mode": "x"}, ConfigError, "(?s)mode='x'.*top_p=2"),
    "slot per head": (
        {"action": "slot", "granularity": "head"},
        ConfigError,
        "granularity='head'.*Use granularity='token'",
    ),
    "slots at once": ({"action": "slot", "evict_every": 4}, ConfigError, "evict_every=4 must be 1"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistake_raises_a_typed_error(case: str) -> None:
    options, error, message = MISTAKES[case]
    with pytest.raises(error, match=message) as caught:
        make_config(ENV, **options)
    assert type(caught.value) is error


@pytest.mark.parametrize("case", MISTAKES)
def test_gymnasium_make_passes_the_error_on(case: str) -> None:
    options, error, message = MISTAKES[case]
    for make in (gymnasium.make, gymnasium.make_vec):
        with pytest.raises(error, match=message):
            make(ENV, **options)


def test_unknown_environment_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"environment 'KVEvict-AIM-v0'\. Did you mean 'KVEvict-AIME-v0'"):
        make_config("KVEvict-AIM-v0")


@pytest.mark.parametrize("env_id", env_ids())
def test_page_and_registry_agree(env_id: str) -> None:
    page = env_page(env_id)
    assert page.id == env_id
    assert page.changelog
    assert gymnasium.spec(env_id).kwargs == {"env_id": env_id}
    assert make_config(env_id) == page.settings


def test_options_change_only_what_they_name() -> None:
    before, after = make_config(ENV).model_dump(), make_config(ENV, budget=96).model_dump()
    assert {name for name in before if before[name] != after[name]} == {"budget"}


def test_slot_action_evicts_one_slot_everywhere() -> None:
    config = make_config(ENV, action="slot")
    assert (config.evict_every, config.shared, config.recent, config.slots) == (1, "token", 1, config.budget + 1)


def test_every_option_is_described() -> None:
    assert all(field.description for field in EnvConfig.model_fields.values())
