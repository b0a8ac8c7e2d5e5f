"""`kv-gym record` and `kv-gym replay`: keep an episode as a file, and look at it in a browser."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kv_gym.commands.options import Settings, build_agent, parse_settings
from kv_gym.errors import ConfigError

if TYPE_CHECKING:
    from kv_gym.show.recording import RecordedEpisode

MAX_NAME_CHARS = 80  # of each part of a file's name


def record(
    env_id: Annotated[str, typer.Argument(help="Environment, such as KVEvict-AIME-v0; `kv-gym envs` lists them.")],
    agent: Annotated[
        list[str],
        typer.Option(
            metavar="NAME[,KEY=VALUE...]",
            help="Agent by name, or path/to/mine.py:MyAgent, with options such as rkv,lam=0.5; repeat for more.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the recordings, one a file.")],
    budget: Annotated[
        int | None, typer.Option(help="Slots that stay per layer and KV head. Default: the env's.")
    ] = None,
    problem: Annotated[int, typer.Option(help="Index of the problem in its split.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the episode.")] = 0,
    split: Annotated[str, typer.Option(help="Split of the problems: train, validation or test.")] = "test",
    mode: Annotated[
        str, typer.Option(help="generate: the LLM writes freely. replay: its full-cache text is forced.")
    ] = "generate",
    settings: Settings = None,
) -> None:
    """Play one problem with each agent and keep every eviction, one file an agent.

    The episodes are those of `kv-gym bench` with the same settings. Look at them with `kv-gym replay`.
    """
    from kv_gym.config import make_config

    options = parse_settings(settings or []) | {"split": split, "mode": mode, "shadow": True}
    config = make_config(env_id, **options if budget is None else options | {"budget": budget})
    if problem >= config.n_problems:
        config = config.model_copy(update={"n_problems": problem + 1})
    from kv_gym.bench.guard import prepare_watched
    from kv_gym.envs.core import ProblemSet
    from kv_gym.llm.loading import load_llm
    from kv_gym.show.recorder import record_episode
    from kv_gym.show.recording import save_recording

    agents = {text: build_agent(text) for text in agent}
    llm = load_llm(config.model, config.revision, config.dtype, config.device)
    for played in agents.values():
        prepare_watched(llm, played)
    reference = ProblemSet(llm, config).chosen(problem, seed)
    for text, played in agents.items():
        episode = record_episode(llm, config, played, reference, env_id, seed)
        path = out / _file_name(episode, text)
        save_recording(episode, path)
        print(path)
        print(_outcome(episode), file=sys.stderr)


def replay(
    episodes: Annotated[
        list[Path], typer.Argument(metavar="EPISODE [EPISODE2]", help="One recording, or two of the same problem.")
    ],
    html: Annotated[Path, typer.Option(help="Where the page goes. One file, which needs no network.")],
) -> None:
    """Make a page that shows a recorded episode step by step, or two agents side by side on the same problem."""
    from kv_gym.show.recording import read_recording
    from kv_gym.show.viewer.page import MOST_EPISODES, build_page

    if len(episodes) > MOST_EPISODES:
        raise ConfigError(f"{len(episodes)} recordings do not fit side by side. Give one or two.")
    page = build_page([read_recording(path) for path in episodes])
    html.parent.mkdir(parents=True, exist_ok=True)
    html.write_text(page, encoding="utf-8")
    print(html)


def _file_name(episode: RecordedEpisode, agent: str) -> str:
    """Name what is recorded; `agent` is what `--agent` took, so that two settings of one agent get two files."""
    from kv_gym.show.recording import SUFFIX

    parts = (episode.problem, agent, f"budget{episode.budget}", episode.mode, f"seed{episode.seed}")
    return "_".join(re.sub(r"[^A-Za-z0-9.=-]+", "-", part).strip("-.")[:MAX_NAME_CHARS] for part in parts) + SUFFIX


def _outcome(episode: RecordedEpisode) -> str:
    """One line that says how an episode went."""
    answer = "no answer" if episode.answer is None else f"answer {episode.answer!r}"
    return (
        f"{episode.agent}: {answer}, gold {episode.gold!r}, score {episode.correct:g}; {len(episode.steps)} evictions, "
        f"{len(episode.tokens)} tokens"
    )
