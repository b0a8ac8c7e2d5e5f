"""Models that were measured, and the families that the tests prove: what `kv-gym models` lists."""

from __future__ import annotations

import functools
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict

FILE = Path(__file__).parent / "known.yaml"


class FullCacheFigure(BaseModel):
    """One measurement with the full cache.

    Attributes:
        env_id: Environment.
        problems: Problems played.
        accuracy: Percent.
        tokens: Mean length of the texts.
        date: Of the measurement.
        command: What made it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    env_id: str
    problems: int
    accuracy: float
    tokens: int
    date: str
    command: str


class KnownModel(BaseModel):
    """One model.

    Attributes:
        id: What `model=` takes, or the hub id of what a file holds.
        file: The file that was measured, where it was not the hub's own format.
        architecture: transformers' class.
        size: Parameters.
        layers, q_heads, kv_heads, head_dim: Sizes of its cache.
        fingerprint: Of an embedded model.
        former_fingerprints: That older versions of kv-gym gave it; stored rows and submissions have them.
        measured: Full-cache figures.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    file: str = ""
    architecture: str
    size: str
    layers: int
    q_heads: int
    kv_heads: int
    head_dim: int
    fingerprint: str = ""
    former_fingerprints: tuple[str, ...] = ()
    measured: tuple[FullCacheFigure, ...]


class KnownModels(BaseModel):
    """The file.

    Attributes:
        models: Measured ones.
        families: Architectures on which the tests prove the three truths of the cache with random weights.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: tuple[KnownModel, ...]
    families: tuple[str, ...]


def known_models() -> KnownModels:
    """Read the file."""
    return KnownModels.model_validate(yaml.safe_load(FILE.read_text()))


@functools.cache
def former_fingerprints() -> dict[str, str]:
    """The fingerprint that an embedded model has now, by those that it had before."""
    return {former: model.fingerprint for model in known_models().models for former in model.former_fingerprints}
