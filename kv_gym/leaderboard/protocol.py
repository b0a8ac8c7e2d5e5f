"""What every entry of the board plays."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kv_gym.bench.rows import sha256_of
from kv_gym.config import EnvConfig, make_config
from kv_gym.errors import ConfigError

FILE = Path(__file__).parent / "protocol.yaml"


class ProtocolEnv(BaseModel):
    """One environment of the board.

    Attributes:
        env_id: With its version.
        model: Frozen LLM.
        budgets: Slots.
        problems: The first so many of the split.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    env_id: str
    model: str
    budgets: list[int] = Field(min_length=1)
    problems: int = Field(ge=1)


class Protocol(BaseModel):
    """All environments of the board, and how they are played.

    Attributes:
        id: Its name; a change that can move a score gets a new one.
        split: Of the problems.
        seeds: Episodes per problem, with seeds 0, 1, ...
        width: Episodes side by side.
        cells: Environments.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    split: str
    seeds: int = Field(ge=1)
    width: int = Field(ge=1)
    cells: list[ProtocolEnv] = Field(min_length=1)

    @property
    def sha256(self) -> str:
        """Hash of everything above."""
        return sha256_of(self.model_dump(mode="json"))

    def reduced(self, problems: int | None, budgets: list[int]) -> Protocol:
        """The same with fewer problems or other budgets, for a trial."""
        cells = [
            cell.model_copy(update={"problems": problems or cell.problems, "budgets": budgets or cell.budgets})
            for cell in self.cells
        ]
        return self.model_copy(update={"cells": cells})

    def config(self, cell: ProtocolEnv, budget: int) -> EnvConfig:
        """Settings of one environment at one budget."""
        return make_config(
            cell.env_id, model=cell.model, split=self.split, n_problems=cell.problems, budget=budget, mode="generate",
            shadow=False,
        )  # fmt: skip


def read_protocol(path: Path | None = None) -> Protocol:
    """Read the board's protocol, or another one from a YAML file.

    Raises:
        ConfigError: The file is missing or no protocol.
    """
    path = path or FILE
    if not path.is_file():
        raise ConfigError(f"protocol {str(path)!r}: there is no such file. Check the path.")
    try:
        protocol = Protocol.model_validate(yaml.safe_load(path.read_text()))
    except (ValidationError, yaml.YAMLError) as error:
        raise ConfigError(f"protocol {str(path)!r} cannot be read: {error}") from error
    played: set[tuple[str, int]] = set()
    for cell in protocol.cells:
        for budget in cell.budgets:
            protocol.config(cell, budget)
            if (cell.env_id, budget) in played:  # episodes are known by these
                raise ConfigError(f"protocol {str(path)!r} has {cell.env_id} at budget {budget} twice. Name it once.")
            played.add((cell.env_id, budget))
    return protocol
