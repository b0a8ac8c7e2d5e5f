"""Plays one problem with one agent and writes down every eviction."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from torch import Tensor

from kv_gym.agents import AgentLike, queries_of
from kv_gym.bench import provenance
from kv_gym.bench.guard import Guard
from kv_gym.bench.plan import result_settings
from kv_gym.bench.play import AgentFailure, check_model, decide
from kv_gym.config import EnvConfig
from kv_gym.engine.episodes import EpisodeBatch
from kv_gym.engine.measures import step_measures
from kv_gym.engine.records import EpisodeRecord, full_cache_record
from kv_gym.engine.reference import Reference
from kv_gym.identity import identity_of
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.problems.grading import extract_answer
from kv_gym.rewards import ANSWER, weights_of
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
        llm,
        config,
        1,
        statistics=agent.needs,
        hindsight=agent.uses_hindsight,
        evictions=True,
        queries=queries_of(agent),
    )
    batch.reset([0], [reference], [seed])
    if agent.evicts:
        steps = _play(batch, agent)
        record, text = batch.record(0), batch.texts.answer_text(0)
        last = reference.n_prompt + record.n_tokens
        texts = batch.texts
        columns = (texts.tokens, texts.surprisal, texts.surprisal_full, texts.entropy_full)
        tokens = [column[0, :last] for column in columns]
    else:
        steps, record = _full_cache_steps(config, reference), full_cache_record(llm, config, reference)
        text = llm.decode(reference.tokens[reference.n_prompt :])
        tokens = [reference.tokens, reference.surprisal, reference.surprisal, reference.entropy]
    return _episode(llm, config, agent, reference, env_id, seed, steps, record, text, tokens)


def _play(batch: EpisodeBatch, agent: AgentLike) -> list[RecordedStep]:
    """Play the only row of a batch to its end."""
    steps, guard = list[RecordedStep](), Guard(batch)
    while batch.active[0]:
        before, length = batch.cache.positions[:, 0].clone(), int(batch.texts.length)
        sums = _step_sums(batch)
        try:
            result = decide(batch, agent, guard)[1]
            if not batch.active[0]:
                check_model(guard)
        except AgentFailure as failure:
            raise RecordingError(
                f"agent {agent.name!r} failed at decision {len(steps)}: {failure.reason}. Nothing was recorded; mend "
                "the agent."
            ) from failure
        last = min(int(batch.texts.end), int(batch.texts.length) + 1)
        steps.append(
            RecordedStep(
                length=int(batch.texts.length),
                written=last - (length + 1),
                evicted=before.gather(-1, batch.records.evicted(0)[-1].to(before)).tolist(),
                reward=_short(float(result.reward)),
                **{name: _short(total - sums[name]) for name, total in _step_sums(batch).items()},
            )
        )
    return steps


def _step_sums(batch: EpisodeBatch) -> dict[str, float]:
    """Sum so far of each measure that recordings hold, of the only row of a batch."""
    return {measure.name: float(batch.records.sums[measure.name][0]) for measure in step_measures()}


def _full_cache_steps(config: EnvConfig, reference: Reference) -> list[RecordedStep]:
    """The steps of an episode in which nothing goes."""
    steps, length, n = [], config.slots, len(reference)
    while length + 1 < n:
        written = min(config.evict_every, n - length - 1)
        length += config.evict_every
        reward = weights_of(config)[ANSWER] * reference.correct if length + 1 >= n else 0.0
        steps.append(
            RecordedStep(
                length=length,
                written=written,
                evicted=[],
                reward=_short(reward),
                **{measure.name: 0.0 for measure in step_measures()},
            )
        )
    return steps


def _episode(
    llm: FrozenLLM, config: EnvConfig, agent: AgentLike, reference: Reference, env_id: str, seed: int,
    steps: list[RecordedStep], record: EpisodeRecord, text: str, tokens: list[Tensor],
) -> RecordedEpisode:  # fmt: skip
    problem, source = reference.problem, identity_of(agent)
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
