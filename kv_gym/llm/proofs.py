"""What was proven of models: each is checked when it is first loaded, and what does not hold is not played."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

from kv_gym.errors import UnsupportedModelError
from kv_gym.files import cache_folder, write_whole
from kv_gym.llm.check import SHORT, Truth, check_truths
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.known import known_models

FORMAT = 2
"""Changes whenever the check does: what was proven before is proven again."""
logger = logging.getLogger(__name__)


class UnprovenModelError(UnsupportedModelError):
    """A model runs, and what it computes is not what evicting says.

    Attributes:
        truths: What was found.
    """

    def __init__(self, name: str, truths: list[Truth]) -> None:
        self.truths = truths
        broken = [f"{t.claim} (off by {t.gap:.1e}, {t.allowed:.0e} is rounding)" for t in truths if not t.held]
        super().__init__(
            f"evicting slots of {name} would not be what it says, so no number of it could be believed. It does not "
            f"hold that {'; '.join(broken)}. Use another model; docs/models.md lists the families that work."
        )


def proven(llm: FrozenLLM) -> FrozenLLM:
    """Return the model if evicting its slots does what it says.

    What was found is stored by fingerprint, so a model is checked once per device and version of the libraries. The
    tests check the embedded models.

    Raises:
        UnsupportedModelError: A truth does not hold.
    """
    if any(llm.fingerprint == model.fingerprint for model in known_models().models):
        return llm
    path, made_by = proof_path(llm.fingerprint), _made_by(llm)
    truths = _stored(path, made_by)
    if truths is None:
        truths = check_truths(llm, SHORT)
        _store(path, made_by, truths)
    if not all(truth.held for truth in truths):
        raise UnprovenModelError(f"{llm.name} ({type(llm.model).__name__})", truths)
    return llm


def proof_path(fingerprint: str) -> Path:
    """File of what was found on a model."""
    return cache_folder() / "proofs" / f"{fingerprint[:40]}.json"


def _made_by(llm: FrozenLLM) -> dict[str, Any]:
    """Everything apart from the model that what was found depends on."""
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"format": FORMAT, "fingerprint": llm.fingerprint, "device": llm.shape.device.type} | versions


def _stored(path: Path, made_by: dict[str, Any]) -> list[Truth] | None:
    """What was found before; None where it was not, or by something else, or cannot be read."""
    try:
        found = json.loads(path.read_text())
        if found["made_by"] == made_by:
            return [Truth(**truth) for truth in found["truths"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _store(path: Path, made_by: dict[str, Any], truths: list[Truth]) -> None:
    """Keep what was found; a folder that cannot be written to costs time and nothing else."""
    data = json.dumps({"made_by": made_by, "truths": [asdict(truth) for truth in truths]}, indent=1)
    try:
        write_whole(path, data.encode())
    except OSError as error:
        logger.info("what was checked on a model cannot be stored in %s (%s)", path.parent, error)
