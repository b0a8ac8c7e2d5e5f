"""A finished episode as a file: what was written, and which slots went when.

The format of `.json.gz` files that `kv-gym record` writes and `kv-gym replay` shows. Reading one loads no torch.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kv_gym.engine.measures import step_measures
from kv_gym.errors import KVGymError, first_complaint

SUFFIX = ".json.gz"
MAX_BYTES = 64 * 2**20
"""Longest recording, inflated. 32 thousand tokens of a model with 224 KV heads take about 45 MiB."""

Nats = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Position = Annotated[int, Field(ge=0)]


class RecordingError(KVGymError):
    """An episode cannot be recorded, or a recording cannot be read or compared."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RecordedModel(_Part):
    """The frozen LLM.

    Attributes:
        name, revision, dtype, fingerprint: As in the run lines of `kv_gym.bench.rows`.
        n_layers, n_kv_heads: L and H_kv.
    """

    name: str
    revision: str | None
    dtype: str
    fingerprint: str
    n_layers: int = Field(ge=1)
    n_kv_heads: int = Field(ge=1)


class RecordedTokens(_Part):
    """The text, prompt first, a column for each fact; all of one length, T.

    Attributes:
        ids: Token ids.
        text: Their pieces of the text, special tokens by their names. A character of several tokens belongs to the
            last of them; the others are empty.
        surprisal: -log p of each token with evictions, nats; 0 for the first.
        surprisal_full: The same under the full cache.
        entropy_full: Entropy of the full cache's prediction of each token, nats.
    """

    ids: list[Annotated[int, Field(ge=0)]]
    text: list[str]
    surprisal: list[Nats]
    surprisal_full: list[Nats]
    entropy_full: list[Nats]

    def __len__(self) -> int:
        return len(self.ids)

    @model_validator(mode="after")
    def _columns_match(self) -> RecordedTokens:
        lengths = {name: len(values) for name, values in self if isinstance(values, list)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns of different lengths: {lengths}")
        return self


class RecordedStep(_Part):
    """One step: an eviction, then `evict_every` tokens are read.

    Attributes:
        length: Tokens read at its end.
        written: Tokens that it added to the text; fewer than `evict_every` only where the text ends.
        evicted: Positions of the slots that went, ascending, `[L][H_kv][evict_every]`; `[]` for the full cache.
        reward: No unit.

    Besides, a step has the measures of `kv_gym.engine.measures` that are known of one (`measured`).
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Nats] = Field(init=False)

    length: int
    written: int = Field(ge=0)
    evicted: list[list[list[Position]]]
    reward: Nats

    @model_validator(mode="after")
    def _measures_are_known(self) -> RecordedStep:
        known = [measure.name for measure in step_measures()]
        for name in self.__pydantic_extra__:
            if name not in known:
                raise ValueError(f"there is no measure {name[:100]!r} of a step")
        return self

    @property
    def measured(self) -> dict[str, float]:
        """Each measure by name."""
        return dict(self.__pydantic_extra__)


class RecordedEpisode(_Part):
    """One agent on one problem.

    Attributes:
        agent, agent_source, agent_sha256, uses_hindsight, evicts: As in the rows of `kv_gym.bench.rows`.
        budget, evict_every: Slots per layer and KV head that stay, and that go at each step.
        problem, family, prompt, gold: What was asked, and the right answer.
        answer: What the LLM put into its last box; None without one.
        correct: Its score, 0 to 1. `correct_full`: that of the full cache.
        stop: `eos` or `length`.
        n_prompt: Tokens of the prompt.
        tokens_sha256, actions_sha256: As in the rows; equal for the same episode.
        settings: Those that can move a result (`kv_gym.bench.plan.result_settings`).
        recorded: UTC, ISO 8601.
    """

    format: Literal[1] = 1
    env_id: str
    mode: Literal["generate", "replay"]
    split: str
    agent: str
    agent_source: str
    agent_sha256: str
    uses_hindsight: bool
    evicts: bool
    budget: int = Field(ge=1)
    evict_every: int = Field(ge=1)
    seed: int
    problem: str
    family: str
    prompt: str
    gold: str
    answer: str | None
    correct: Share
    correct_full: Share
    stop: Literal["eos", "length"]
    n_prompt: int = Field(ge=1)
    tokens: RecordedTokens
    steps: list[RecordedStep]
    tokens_sha256: str
    actions_sha256: str
    model: RecordedModel
    settings: dict[str, Any]
    recorded: str
    command: str
    versions: dict[str, str]
    git: dict[str, str | bool] | None

    @property
    def slots(self) -> int:
        """Slots at every decision, S."""
        return self.budget + self.evict_every

    def held(self, step: int) -> list[list[list[int]]]:
        """Positions that every head holds right after the eviction of `step`, ascending, `[L][H_kv][budget]`.

        The full cache holds all it has read.
        """
        read = range(self.slots + step * self.evict_every)
        gone = [[set[int]() for _ in range(self.model.n_kv_heads)] for _ in range(self.model.n_layers)]
        for earlier in self.steps[: step + 1] if self.evicts else ():
            for layer, heads in enumerate(earlier.evicted):
                for head, positions in enumerate(heads):
                    gone[layer][head].update(positions)
        return [[[p for p in read if p not in head] for head in heads] for heads in gone]

    @model_validator(mode="after")
    def _adds_up(self) -> RecordedEpisode:
        known = self.slots + 1 + sum(step.written for step in self.steps)
        if known != len(self.tokens):
            raise ValueError(f"{len(self.tokens)} tokens, but the steps account for {known}")
        if self.n_prompt > known:
            raise ValueError(f"n_prompt={self.n_prompt} of {known} tokens")
        gone: dict[tuple[int, int], set[int]] = {}
        for index, step in enumerate(self.steps):
            self._check_step(index, step, gone)
        return self

    def _check_step(self, index: int, step: RecordedStep, gone: dict[tuple[int, int], set[int]]) -> None:
        """Check that a step goes on where the one before ended, and evicts only what was there."""
        before = self.slots + index * self.evict_every
        if step.length != before + self.evict_every or step.written > self.evict_every:
            raise ValueError(f"steps.{index}: length={step.length}, written={step.written} after {before} tokens")
        if not self.evicts:
            if step.evicted:
                raise ValueError(f"steps.{index}: slots went, but the agent does not evict")
            return
        if [len(heads) for heads in step.evicted] != [self.model.n_kv_heads] * self.model.n_layers:
            raise ValueError(f"steps.{index}: evicted is not [{self.model.n_layers}][{self.model.n_kv_heads}]")
        for layer, heads in enumerate(step.evicted):
            for head, positions in enumerate(heads):
                known = gone.setdefault((layer, head), set())
                fresh = set(positions) - known
                if len(positions) != self.evict_every or len(fresh) != self.evict_every or max(fresh) >= before:
                    raise ValueError(
                        f"steps.{index}: layer {layer}, KV head {head} evicts something else than {self.evict_every} "
                        f"slots that it held"
                    )
                known |= fresh


def save_recording(episode: RecordedEpisode, path: Path) -> None:
    """Write an episode in one piece; the same episode gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_bytes(gzip.compress(episode.model_dump_json().encode(), mtime=0))
    temporary.replace(path)


def read_recording(path: Path) -> RecordedEpisode:
    """Read an episode.

    Raises:
        RecordingError: There is no such file, or it is damaged, too long or of another version.
    """
    if not path.is_file():
        raise RecordingError(f"{path} does not exist. `kv-gym record ENV_ID --agent NAME --out DIR` makes recordings.")
    try:
        with gzip.open(path) as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise RecordingError(f"{path} is no recording, or damaged: {error}. Record the episode again.") from error
    if len(data) > MAX_BYTES:
        raise RecordingError(f"{path} inflates to more than {MAX_BYTES >> 20} MiB, the longest recording.")
    try:
        return RecordedEpisode.model_validate_json(data)
    except ValidationError as error:
        reason = first_complaint(error)
        raise RecordingError(f"{path} is no recording of this version: {reason}. Record the episode again.") from error
