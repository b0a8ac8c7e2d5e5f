"""Plays one problem with one agent and writes down every eviction."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from torch import Tensor

from kv_gym.agents import AgentLike, agent_source
from kv_gym.bench import provenance
from kv_gym.bench.plan import result_settings
from kv_gym.bench.play import AgentFailure, decide, full_cache_record
from kv_gym.config import EnvConfig
from kv_gym.engine.episodes import EpisodeBatch, EpisodeRecord
from kv_gym.engine.reference import Reference
from kv_gym.llm.loading import FrozenLLM
from kv_gym.problems.grading import extract_answer
from kv_gym.show.recording import RecordedEpisode, RecordedModel, RecordedStep, RecordedTokens, RecordingError

DIGITS = 6  # significant ones of what is written down
BROKEN = "\ufffd"  # what a decoder gives for a part of a character
MAX_PARTS = 8  # tokens of one character; what is still broken then is no character


def record_episode(
    llm: FrozenLLM, config: EnvConfig, agent: AgentLike, reference: Reference, env_id: str, seed: int = 0
) -> RecordedEpisode:
    """Play one problem with one agent, with a full-cache copy reading along.

    Args:
        llm: The frozen LLM.
        config: Settings of the env; `shadow` must be on, it changes no token.
        agent: Who scores; `prepare_agent` has seen it.
        reference: The problem and its full-cache generation.
        env_id: The environment.
        seed: Episode seed.

    Raises:
        ConfigError: The problem cannot be played (see `EpisodeBatch.reset`).
        RecordingError: The agent raised.
    """
    assert config.shadow, "spikes are measured against the shadow"
    batch = EpisodeBatch(
        llm, config, 1, statistics=agent.needs_statistics, hindsight=agent.uses_hindsight, evictions=True
    )
    batch.reset([0], [reference], [seed])
    if agent.evicts:
        steps = _play(batch, agent)
        record, text = batch.record(0), batch.answer_text(0)
        last = reference.n_prompt + record.n_tokens
        tokens = [
            table[0, :last] for table in (batch.tokens, batch.surprisal, batch.surprisal_full, batch.entropy_full)
        ]
    else:
        steps, record = _full_cache_steps(config, reference), full_cache_record(llm, config, reference)
        text = llm.decode(reference.tokens[reference.n_prompt :])
        tokens = [reference.tokens, reference.surprisal, reference.surprisal, reference.entropy]
    return _episode(llm, config, agent, reference, env_id, seed, steps, record, text, tokens)


def _play(batch: EpisodeBatch, agent: AgentLike) -> list[RecordedStep]:
    """Play the only row of a batch to its end."""
    steps: list[RecordedStep] = []
    while batch.active[0]:
        before, length = batch.cache.positions[:, 0].clone(), int(batch.length)
        sums = {name: float(values[0]) for name, values in batch.sums.items()}
        try:
            result = decide(batch, agent)[1]
        except AgentFailure as failure:
            raise RecordingError(
                f"agent {agent.name!r} failed at decision {len(steps)}: {failure.reason}. Nothing was recorded; mend "
                "the agent."
            ) from failure
        last = min(int(batch.end), int(batch.length) + 1)
        steps.append(
            RecordedStep(
                length=int(batch.length),
                written=last - (length + 1),
                evicted=before.gather(-1, batch.evicted(0)[-1].to(before)).tolist(),
                loss_spike=_short(float(result.terms["loss_spike"])),
                attention_spike=_short(float(result.terms["attention_spike"])),
                missed_attention=_short(float(batch.sums["missed_attention"]) - sums["missed_attention"]),
                reward=_short(float(result.reward)),
            )
        )
    return steps


def _full_cache_steps(config: EnvConfig, reference: Reference) -> list[RecordedStep]:
    """The steps of an episode in which nothing goes."""
    steps, length, n = [], config.slots, len(reference)
    while length + 1 < n:
        written = min(config.evict_every, n - length - 1)
        length += config.evict_every
        reward = config.w_correct * reference.correct if length + 1 >= n else 0.0
        steps.append(
            RecordedStep(
                length=length,
                written=written,
                evicted=[],
                loss_spike=0,
                attention_spike=0,
                missed_attention=0,
                reward=_short(reward),
            )
        )
    return steps


def _episode(
    llm: FrozenLLM, config: EnvConfig, agent: AgentLike, reference: Reference, env_id: str, seed: int,
    steps: list[RecordedStep], record: EpisodeRecord, text: str, tokens: list[Tensor],
) -> RecordedEpisode:  # fmt: skip
    problem, source = reference.problem, agent_source(agent)
    ids, *columns = (table.tolist() for table in tokens)
    surprisal, surprisal_full, entropy_full = ([_short(value) for value in column] for column in columns)
    return RecordedEpisode(
        env_id=env_id,
        mode=config.mode,
        split=config.split,
        agent=agent.name,
        agent_source=source.where,
        agent_sha256=source.sha256,
        uses_hindsight=agent.uses_hindsight,
        evicts=agent.evicts,
        budget=config.budget,
        evict_every=config.evict_every,
        seed=seed,
        problem=problem.id,
        family=problem.family,
        prompt=problem.prompt,
        gold=problem.answer,
        answer=extract_answer(text),
        correct=record.correct,
        correct_full=reference.correct,
        stop="eos" if record.stop == "eos" else "length",
        n_prompt=reference.n_prompt,
        tokens=RecordedTokens(
            ids=ids,
            text=token_pieces(ids, lambda part: str(llm.tokenizer.decode(part))),
            surprisal=surprisal,
            surprisal_full=surprisal_full,
            entropy_full=entropy_full,
        ),
        steps=steps,
        tokens_sha256=record.tokens_sha256,
        actions_sha256=record.actions_sha256,
        model=RecordedModel(
            name=llm.name,
            revision=config.revision,
            dtype=config.dtype,
            fingerprint=llm.fingerprint,
            n_layers=llm.shape.n_layers,
            n_kv_heads=llm.shape.n_kv_heads,
        ),
        settings=result_settings(config),
        recorded=datetime.now(UTC).isoformat(timespec="seconds"),
        command=provenance.command(),
        versions=provenance.versions(),
        git=provenance.git_state(),
    )


def token_pieces(ids: list[int], decode: Callable[[list[int]], str]) -> list[str]:
    """Cut the text of `ids` into a piece for each token; joined, they are the text.

    A character that takes several tokens goes to the last of them, and the others get "". Each token is decoded behind
    the ones before it, because some tokenizers treat the first token of a text differently.
    """
    pieces, start, done = [], 0, 0
    for end in range(1, len(ids) + 1):
        before, now = decode(ids[start:done]), decode(ids[start:end])
        if now.endswith(BROKEN) and end - done < MAX_PARTS and end < len(ids):
            pieces.append("")
            continue
        pieces.append(now[len(before) :])
        start, done = done, end
    return pieces


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
