"""Trained scorers as agents. Each class names a shipped checkpoint; `checkpoint=` takes another."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from torch import Tensor

from kv_agents.base import Agent
from kv_agents.heuristics.random import draw
from kv_agents.learned import checkpoints
from kv_agents.learned.inputs import needs_of
from kv_agents.learned.policy import with_noise
from kv_gym.engine.slots import SlotView
from kv_gym.errors import ConfigError
from kv_gym.llm.frozen import FrozenLLM


class Learned(Agent):
    """Keep the slots that a trained scorer ranks highest.

    Args:
        checkpoint: A shipped name or the path of a .safetensors file; default is the class's own.
        temperature: Draw evictions, as in training and in the paper, instead of taking the lowest scores: noise in
            units of the spread of a head's scores (`kv_agents.learned.policy.with_noise`).

    Raises:
        CheckpointError: There is no such checkpoint, or it is damaged.
        ConfigError: The temperature is below 0.
    """

    shipped: ClassVar[str]
    scope = "model"  # an MLP of its own for each layer; scorers go layer by layer themselves

    def __init__(self, checkpoint: str = "", temperature: float = 0.0) -> None:
        if temperature < 0:
            raise ConfigError(f"temperature={temperature!r} is not allowed: use a number from 0 on.")
        self.temperature = float(temperature)
        path = self._path = checkpoints.find(checkpoint or self.shipped)
        self.scorer, self.info = checkpoints.load(path)
        self.checkpoint, self.weights = path.stem, checkpoints.digest(path)
        if self.checkpoint != self.shipped:  # tables tell several checkpoints of one agent apart
            self.name = f"{self.name}[{self.checkpoint}]"

    @classmethod
    def about(cls) -> str:
        """What the shipped checkpoint was trained on, for `kv-gym agents`."""
        return checkpoints.describe(checkpoints.read_info(checkpoints.find(cls.shipped)))

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """What the columns of its scorer are made of."""
        return needs_of(self.info.scorer.columns)

    def files(self) -> list[Path]:
        """The weights and their description: what a submission takes along."""
        return [self._path, self._path.with_suffix(".json")]

    def prepare(self, llm: FrozenLLM) -> None:
        """Check that the scorer was made for this model, and move it there."""
        self.info.check_model(llm, self.checkpoint)
        if "unrotated_keys" in self.info.scorer.inputs:
            llm.check_rotary()
        self.scorer.to(llm.shape.device)

    def score(self, slots: SlotView) -> Tensor:
        """Run the scorer."""
        scores = self.scorer.score(slots)
        if self.temperature == 0:
            return scores
        return with_noise(scores, slots.protected, draw(slots, scores.shape[1:]), self.temperature)


class Foresight(Learned):
    """The ForesightKV scorer: keys, values and attention statistics, one MLP per head, distilled from golden evictions.

    One for SmolLM2-135M-Instruct (its Q4_1 GGUF) is shipped too: `foresight,checkpoint=foresight-smollm2`.

    Source: ForesightKV, arXiv:2602.03203, supervised stage. Differs: see `kv_agents.learned.scorer` and
        `kv_agents.training.distill`.
    """

    name = "foresight"
    shipped = "foresight"


class ForesightRL(Learned):
    """The distilled scorer after GRPO on the environment's reward.

    Trained in two runs: 450 iterations from `foresight` (seed 1; those of seeds 0, 1 and 2 are shipped too, as
    `foresight-rl,checkpoint=seeds/foresight-rl-0` and so on), and 400 more with a fresh learning rate.

    Source: ForesightKV, arXiv:2602.03203, RL stage. Differs: see `kv_agents.training.grpo`.
    """

    name = "foresight-rl"
    shipped = "foresight-rl"


class Transfer(Learned):
    """A scorer of model-independent features, one MLP for all heads, distilled from golden evictions, then GRPO.

    It reads attention, what is known of the slot's token, and `kv_agents.learned.inputs.relations`: whether it was
    stated again. Trained on the families `graph`, `ledger` and `collect`; it never saw `lag`. Runs on any model. The
    distilled scorer that GRPO began from is `transfer,checkpoint=seeds/transfer-distilled`.

    Source: none; the form follows ForesightKV without keys and values.
    """

    name = "transfer"
    shipped = "transfer"


class PPOAgent(Learned):
    """A policy that stable-baselines3's PPO found by playing the environment through its observations.

    One MLP for all heads on the observation's features. In training one decision is shared by all heads
    (`granularity="token"`, or the noise on 1,152 scores drowns the rest); the agent then asks it for each head.

    Source: PPO, arXiv:1707.06347, in stable-baselines3; see `kv_agents.training.ppo`.
    """

    name = "ppo"
    shipped = "ppo"


class KVP(Learned):
    """A ranking of slots by keys, values and age that was paid for every budget at once, on replayed traces.

    One MLP per layer and KV head, by policy gradient (`kv_agents.training.distill.order_loss`).

    Source: KVP, "Learning to Evict from Key-Value Cache", arXiv:2602.10238. Differs: see `order_loss`.
    """

    name = "kvp"
    shipped = "kvp"
