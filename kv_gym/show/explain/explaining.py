"""Rows -> an explanation: which episodes are played again, by whom, and what comes of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import SimpleNamespace
from typing import cast

from kv_gym.agents import AgentLike, queries_of
from kv_gym.bench.guard import prepare_watched
from kv_gym.bench.labels import labels
from kv_gym.bench.plan import AUTO, Episode, config_of, fresh_problems, plays
from kv_gym.bench.progress import Progress
from kv_gym.bench.rows import EpisodeRow, RunRow
from kv_gym.bench.widths import find_widths
from kv_gym.config import EnvConfig
from kv_gym.engine.reference import ReferenceStore
from kv_gym.errors import ConfigError, unknown_name
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.loading import load_llm
from kv_gym.problems import Problem
from kv_gym.show.explain.duel import duel
from kv_gym.show.explain.explanation import Explanation, cuts_of
from kv_gym.show.explain.playing import ExplainError, n_decisions, play_again

MOST_SIDE_BY_SIDE = 8  # labels of a long text fill the host's memory


def explain(
    rows: Sequence[EpisodeRow], runs: Mapping[str, RunRow], agents: Mapping[str, AgentLike], budget: int,
    n_episodes: int, progress: Progress,
) -> Explanation:  # fmt: skip
    """Play some episodes of rows again and sum up what goes and would have been needed.

    Episodes are replayed: all agents meet the same text, that of the full cache, so what it pays later is known. In
    generate mode an agent's text is its own from its first mistake on; the problems won and lost are those of the rows.

    Args:
        rows: That belong together (`kv_gym.bench.report.newest_rows`).
        runs: Of the rows.
        agents: One or two by their labels; the explained one first.
        budget: Slots.
        n_episodes: How many episodes that all of them have are played, families in turn.
        progress: Told how far it is.

    Raises:
        ConfigError: Nothing can be played; or this version knows other settings.
        ExplainError: An agent raised.
    """
    chosen = episodes_of(rows, list(agents), budget)[:n_episodes]
    first = chosen[0]
    config = config_of(runs[first.run_id], first).model_copy(update={"mode": "replay", "shadow": False})
    width = _width(config, [agent for agent in agents.values() if agent.evicts])
    llm = load_llm(config.model, config.revision, config.dtype, config.device)
    if llm.fingerprint != first.model_fingerprint:
        raise ExplainError(f"model {first.model!r} is another now than that of these rows. Play them again.")
    players = {label: agent for label, agent in agents.items() if agent.evicts}
    for agent in players.values():
        prepare_watched(llm, agent)
    progress.begin("full-cache references", len(chosen))
    drawn = _episodes(llm, config, chosen, runs, progress)
    episodes = [one for one in drawn if plays(one.reference, config) and n_decisions(llm, config, one)]
    if not episodes:
        raise ConfigError(
            f"in none of the {len(chosen)} episodes a slot goes before the answer at budget {budget}. Use more "
            "--episodes or a smaller --budget."
        )
    tallies = dict(zip(players, play_again(llm, config, [*players.values()], episodes, width, progress), strict=True))
    ours, *theirs = agents
    return Explanation(
        env_id=first.env_id,
        model=first.model,
        split=first.split,
        budget=budget,
        evict_every=config.evict_every,
        agents=tuple(players),
        episodes=tuple((one.problem.id, one.problem.family, one.seed) for one in episodes),
        decisions=sum(one.decisions for one in tallies[ours]),
        n_layers=llm.shape.n_layers,
        n_kv_heads=llm.shape.n_kv_heads,
        cuts=cuts_of(tallies),
        duel=duel(rows, ours, theirs[0], budget) if theirs else None,
    )


def budget_of(rows: Sequence[EpisodeRow], agents: Collection[str], asked: int | None) -> int:
    """The budget that is explained: the one asked for, else the lowest at which all of these agents played.

    Raises:
        UnknownNameError: There are no rows of an agent.
        ConfigError: They did not play at that budget, or at none together.
    """
    label = labels(rows)
    budgets: dict[str, set[int]] = {}
    for row in rows:
        budgets.setdefault(label[row.agent, row.agent_source], set()).add(row.budget)
    for agent in agents:
        if agent not in budgets:
            raise unknown_name("agent in these rows", agent, budgets)
    shared = set.intersection(*(budgets[agent] for agent in agents))
    listed = ", ".join(map(str, sorted(shared)))
    if not shared:
        raise ConfigError(f"{' and '.join(agents)} have no budget in common in these rows. Play both at one.")
    if asked is not None and asked not in shared:
        raise ConfigError(f"--budget {asked}: {' and '.join(agents)} did not play there. There are {listed}.")
    return min(shared) if asked is None else asked


def episodes_of(rows: Sequence[EpisodeRow], agents: Collection[str], budget: int) -> list[EpisodeRow]:
    """A row of the first agent for each problem and seed that all of them played at a budget, families in turn.

    Raises:
        ConfigError: There is none.
    """
    label = labels(rows)
    by_agent: dict[str, dict[tuple[str, int], EpisodeRow]] = {agent: {} for agent in agents}
    for row in rows:
        if row.budget == budget and (mine := by_agent.get(label[row.agent, row.agent_source])) is not None:
            mine.setdefault((row.problem, row.seed), row)
    first, *others = by_agent.values()
    families: dict[str, list[EpisodeRow]] = {}
    for place, row in first.items():
        if all(place in other for other in others):
            families.setdefault(row.family, []).append(row)
    longest = max(map(len, families.values()), default=0)
    found = [mine[i] for i in range(longest) for mine in families.values() if i < len(mine)]
    if not found:
        raise ConfigError(f"{' and '.join(agents)} share no problem at budget {budget}. Play both on the same.")
    return found


def _episodes(
    llm: FrozenLLM, config: EnvConfig, rows: Sequence[EpisodeRow], runs: Mapping[str, RunRow], progress: Progress
) -> list[Episode]:
    """The episodes of rows, with their references."""
    known: dict[str, dict[str, Problem]] = {}
    for row in rows:
        if row.run_id not in known:
            own = config_of(runs[row.run_id], row)
            seeds = runs[row.run_id].plan.get("problem_seeds") or [own.problem_seed]
            drawn = fresh_problems(own.model_copy(update={"problem_seed": seeds[0]}), len(seeds))
            known[row.run_id] = {problem.id: problem for problem in drawn}
    problems = [known[row.run_id][row.problem] for row in rows]
    seeds = [row.seed for row in rows]
    references = ReferenceStore(llm, config).get(problems, seeds, progress=progress.advance)
    return [Episode(reference, seed) for reference, seed in zip(references, seeds, strict=True)]


def _width(config: EnvConfig, agents: Sequence[AgentLike]) -> int:
    """Episodes side by side that fit into memory together with their golden labels."""
    asked = [
        SimpleNamespace(
            needs=agent.needs, n_obs=queries_of(agent), uses_hindsight=True, evicts=True,
            scope=getattr(agent, "scope", "layer"),
        )
        for agent in agents
    ]  # fmt: skip
    return min(MOST_SIDE_BY_SIDE, find_widths(AUTO, [config], cast("list[AgentLike]", asked)).playing)
