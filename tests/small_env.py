"""The env that the tests of both skins play: small, and in every form of action."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

ENV = "KVEvict-AIME-v0"
SMALL: dict[str, Any] = {"split": "test", "budget": 52, "evict_every": 4, "n_problems": 2, "max_new_tokens": 128}
FORMS: dict[str, dict[str, Any]] = {
    f"{action}-{granularity}": {"action": action, "granularity": granularity}
    for action in ("scores", "mask")
    for granularity in ("head", "layer", "token")
} | {"slot": {"action": "slot", "evict_every": 1}}

Offline = Callable[[str], dict[str, Any]]
"""What an environment needs to be built without a network: nothing on the embedded model, else stand-ins."""
