"""The terms of the reward, one declaration each.

A term is added here and nowhere else: its weight and its own settings become settings of every environment, its value
is in `info["reward_terms"]`, in rows, reports, recordings and pictures, and trainings can weigh it. It stands on the
ground floor because settings come from it; torch is only needed by those who call its functions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from kv_gym.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

Setting = tuple[Any, Any]  # type, pydantic Field

ANSWER = "correct"
"""The term that is a result by itself: accuracy."""


@dataclass(frozen=True)
class Window:
    """What one step came to: R episodes, a window of T tokens each.

    Attributes:
        loss: -log p of each token with evictions, nats, [R, T].
        loss_full: The same with the full cache.
        entropy_full: Entropy of the full cache's prediction of each token, nats, [R, T].
        counted: Tokens that are measured: generated ones inside the text; in replay, those of the trace. [R, T] bool.
        sure: Of those, the ones that the full cache is sure of (`entropy_threshold`), [R, T] bool.
        high: Of those, the ones among the fifth of the text with the highest full-cache entropy, [R, T] bool.
        missed: Share of the full-cache attention that the window's queries would have paid to slots no longer there,
            mean over queries and GQA group, [R, L, H_kv]; NaN where no full cache reads along.
        score: Of the answer, where the episode ended in this step; else 0. [R].
    """

    loss: Tensor
    loss_full: Tensor
    entropy_full: Tensor
    counted: Tensor
    sure: Tensor
    high: Tensor
    missed: Tensor
    score: Tensor


@dataclass(frozen=True)
class RewardTerm:
    """One term of the reward.

    Attributes:
        name: Its name everywhere.
        title: What people read.
        unit: Of its value; "" for none, and for shares.
        sign: 1 counts for, -1 against.
        description: What it is, for the pages.
        weight: Name of the setting that weighs it.
        weight_field: That setting: default, bounds, description.
        needs: `answer`: it is known at the end. `losses`: of the full cache, known in replay, measured by the shadow in
            generate mode. `attention`: of the full cache, always measured by the shadow.
        value: (window, settings of the env) -> [R].
        settings: Settings of its own.
        shown: Whether the tables of `kv-gym bench` have one for it.
        worst: Settings -> the most that it can come to in a step or, where there is no limit, why.
    """

    name: str
    title: str
    unit: str
    sign: Literal[1, -1]
    description: str
    weight: str
    weight_field: Any
    needs: Literal["answer", "losses", "attention"]
    value: Callable[[Window, Any], Tensor]
    settings: Mapping[str, Setting] = field(default_factory=dict)
    shown: bool = True
    worst: Callable[[Any], float | str] = lambda config: "it has none"


def loss_spike(increase: Tensor, watched: Tensor, threshold: float, cap: float | None = None) -> Tensor:
    """Mean squared loss increase over watched tokens, counting only increases above the threshold.

    Args:
        increase: Loss with evictions minus loss of the full cache, nats, [N, T].
        watched: Tokens whose full-cache entropy is low, [N, T] bool.
        threshold: Nats.
        cap: An increase beyond it counts as much, nats: a token that is lost is lost, however surely.

    Returns:
        [N], nats squared; 0 where nothing is watched.

    Source: ForesightKV, arXiv:2602.03203, RL stage (mean, as in its code; the paper writes a sum). The cap is ours.
    """
    counted = increase if cap is None else increase.clamp_max(cap)
    squared = counted.square().masked_fill(~(watched & (increase > threshold)), 0.0)
    return squared.sum(-1) / watched.sum(-1).clamp_min(1)


def attention_spike(missed: Tensor, forgiven: float) -> Tensor:
    """Attention that would have gone to evicted slots, beyond what is forgiven.

    Args:
        missed: `Window.missed`, [N, L, H_kv].
        forgiven: Share that costs nothing.

    Returns:
        [N], mean over layers and KV heads, 0 to 1.
    """
    return (missed - forgiven).relu().mean((-2, -1))


REWARD_TERMS: tuple[RewardTerm, ...] = (
    RewardTerm(
        name=ANSWER,
        title="answer",
        unit="",
        sign=1,
        description=r"the score of the answer in the text's last `\boxed{}`, 0 to 1. Mostly it is right, 1, or wrong, "
        "0, compared by mathematics (`docs/grading.md`); where a list is asked for, it is the share of the list that "
        "was found.",
        weight="w_correct",
        weight_field=Field(1.0, description="Reward of a right answer; of a partly right one, that share of it."),
        needs="answer",
        value=lambda window, config: window.score,
    ),
    RewardTerm(
        name="loss_spike",
        title="loss spike",
        unit="nats²",
        sign=-1,
        description="how much worse the LLM predicts the tokens of this step than it would with the full cache. The "
        "loss increase squared where it is above `loss_threshold`, 0 elsewhere, as the mean over the tokens that the "
        "full cache is sure of.",
        weight="w_loss",
        weight_field=Field(0.02, ge=0, description="Penalty per unit of loss spike (nats squared)."),
        needs="losses",
        value=lambda window, config: loss_spike(
            window.loss - window.loss_full, window.sure, config.loss_threshold, config.loss_cap
        ),
        settings={
            "loss_threshold": (
                float,
                Field(1.5, ge=0, description="A token's loss increase counts in the loss spike from here on, nats."),
            ),
            "loss_cap": (
                float | None,
                Field(
                    None,
                    gt=0,
                    description="A larger loss increase counts as this one, nats; None: it counts in full.",
                ),
            ),
        },
        worst=lambda config: "`loss_cap` is None" if config.loss_cap is None else config.loss_cap**2,
    ),
    RewardTerm(
        name="attention_spike",
        title="attention spike",
        unit="",
        sign=-1,
        description="the share of its attention that the LLM would have paid to evicted slots, less what is forgiven, "
        "as the mean over layers and KV heads.",
        weight="w_attention",
        weight_field=Field(0.1, ge=0, description="Penalty per unit of attention spike (share of the attention)."),
        needs="attention",
        value=lambda window, config: attention_spike(window.missed, config.attention_threshold),
        settings={
            "attention_threshold": (
                float,
                Field(
                    0.05,
                    ge=0,
                    le=1,
                    description="Share of the attention that may be missed without an attention spike.",
                ),
            ),
        },
        shown=False,
        worst=lambda config: 1 - config.attention_threshold,
    ),
)


def reward_settings(taken: Collection[str] = ()) -> dict[str, Setting]:
    """Every setting that the terms add to an environment: weights first.

    Args:
        taken: Settings that an environment has besides.

    Raises:
        ConfigError: Two terms, or a term and an environment, have a name in common.
    """
    names = [term.name for term in REWARD_TERMS]
    owned = [(term.weight, (float, term.weight_field)) for term in REWARD_TERMS]
    owned += [setting for term in REWARD_TERMS for setting in term.settings.items()]
    for what, found in (("term", names), ("setting", [*taken, *(name for name, _ in owned)])):
        twice = [name for name in dict.fromkeys(found) if found.count(name) > 1]
        if twice:
            raise ConfigError(f"the reward's {what} {twice[0]!r} is declared twice. Give one of them another name.")
    return dict(owned)


def weights_of(config: Any) -> dict[str, float]:
    """Weight of each term by the term's name, of anything that has the settings as attributes."""
    return {term.name: getattr(config, term.weight) for term in REWARD_TERMS}


def total_reward(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Weighted sum of terms, [N]: some count for, others against."""
    first, *others = (term.sign * weights[term.name] * terms[term.name] for term in REWARD_TERMS)
    return sum(others, start=first)


def needs_shadow(weights: Mapping[str, float], mode: str) -> bool:
    """Whether a term that counts is measured by a full cache that reads along."""
    counts = {term.needs for term in REWARD_TERMS if weights[term.name]}
    return "attention" in counts or ("losses" in counts and mode == "generate")


def needs_answer(weights: Mapping[str, float]) -> bool:
    """Whether the answer counts."""
    return any(term.needs == "answer" and weights[term.name] for term in REWARD_TERMS)
