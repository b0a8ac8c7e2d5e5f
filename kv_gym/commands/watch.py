"""`kv-gym watch`: one episode live in the terminal, and how its answer compares."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kv_gym.commands.options import Settings, build_agent, parse_pairs
from kv_gym.errors import ConfigError

if TYPE_CHECKING:
    from kv_gym.agents import AgentLike
    from kv_gym.config import EnvConfig
    from kv_gym.show.frames import Frame

WIDEST = 160  # columns; longer lines are hard to read
VERDICT_LINES = 5  # stay free below the last frame, with the prompt of the shell
ANSWER_CHARS = 120


def watch(
    env_id: Annotated[str, typer.Argument(help="Environment, such as KVEvict-AIME-v0; `kv-gym envs` lists them.")],
    agent: Annotated[
        str,
        typer.Option(
            metavar="NAME[,KEY=VALUE...]",
            help="Agent by name, or path/to/mine.py:MyAgent, with options such as rkv,lam=0.5.",
        ),
    ],
    budget: Annotated[int | None, typer.Option(help="Slots that stay per layer and KV head. Default: the page's.")] = (
        None
    ),
    problem: Annotated[int | None, typer.Option(help="Index of the problem. Default: the first playable one.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the episode.")] = 0,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    mode: Annotated[
        str | None,
        typer.Option(help="generate: the LLM writes freely. replay: it reads a trace. Default: the env's page."),
    ] = None,
    delay: Annotated[float, typer.Option(min=0, help="Seconds between two steps, besides what they take.")] = 0.2,
    picture: Annotated[Path | None, typer.Option(help="Save the last frame to this PNG.", dir_okay=False)] = None,
    settings: Settings = None,
) -> None:
    """Watch an episode live: the text with evicted tokens dimmed, and what each KV head holds of it.

    Where stdout is no terminal, only the last state is printed, without colours.
    """
    from kv_gym.config import make_config

    own = {"budget": budget, "mode": mode}
    chosen = {name: value for name, value in own.items() if value is not None}
    options = parse_pairs(settings or [], env=True) | chosen | {"split": split}
    config = make_config(env_id, **options)  # before torch is loaded
    player = build_agent(agent)
    if not player.evicts:
        raise ConfigError(f"agent {player.name!r} evicts nothing, so there is nothing to watch. Choose another one.")
    episode = Episode(env_id, config, player, problem, seed)
    try:
        last = show(episode.play(), delay)
    except KeyboardInterrupt:
        print(f"Stopped after step {int(episode.batch.decision[0])}.", file=sys.stderr)
        raise typer.Exit(130) from None
    print(f"\n{episode.verdict(last)}")
    if picture is not None:
        save_picture(last, picture)


def save_picture(frame: Frame, path: Path) -> None:
    """Save what `render_mode="rgb_array"` shows as a PNG."""
    from PIL import Image

    from kv_gym.show import rendering

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rendering.picture(frame)).save(path, format="PNG", optimize=True)


class Episode:
    """One episode of one agent, a frame at a time.

    Args:
        env_id: Name of the environment.
        config: Its settings.
        agent: Who evicts.
        problem: Index of the problem; None for the first playable one.
        seed: Seed of the episode.

    Raises:
        ConfigError: The problem does not exist or cannot be played, or none can.
    """

    def __init__(self, env_id: str, config: EnvConfig, agent: AgentLike, problem: int | None, seed: int) -> None:
        from kv_gym.agents import queries_of
        from kv_gym.bench.guard import prepare_watched
        from kv_gym.engine.episodes import EpisodeBatch
        from kv_gym.envs.core import ProblemSet
        from kv_gym.llm.loading import load_llm
        from kv_gym.show.frames import FrameMaker

        self.llm = load_llm(config.model, config.revision, config.dtype, config.device)
        prepare_watched(self.llm, agent)
        problems = ProblemSet(self.llm, config)
        self.reference = problems.playable(0, seed) if problem is None else problems.chosen(problem, seed)
        self.agent = agent
        self.batch = EpisodeBatch(self.llm, config, 1, agent.needs, agent.uses_hindsight, queries=queries_of(agent))
        self.batch.reset([0], [self.reference], [seed])
        self._frames = FrameMaker(env_id, self.batch)

    def play(self) -> Iterator[Frame]:
        """Play to the end; yield what is there to see at the start and after each step.

        Raises:
            ScoreError: The agent's scores are no numbers or too few.
        """
        import torch

        from kv_gym.bench.scoring import keep_scores

        yield self._frames.frames([0])[0]
        while self.batch.active[0]:
            with torch.no_grad():
                scores = keep_scores(self.agent, self.batch.slots())
            self._frames.begin_step()
            self._frames.end_step(self.batch.step(scores))
            yield self._frames.frames([0])[0]

    def verdict(self, last: Frame) -> str:
        """Set the answer beside the gold answer and that of the full cache, a line each."""
        from kv_gym.show.terminal import outcome

        reference = self.reference
        full = self.llm.decode(reference.tokens[reference.n_prompt :])
        rows: list[tuple[str, str | None, str]] = [
            (self.agent.name, _answer(self.batch.texts.answer_text(0)), outcome(last.score)[0]),
            ("full cache", _answer(full), outcome(reference.correct)[0]),
            ("gold answer", reference.problem.answer, ""),
        ]
        return "\n".join(_answer_line(*row) for row in rows)


def _answer(text: str) -> str | None:
    from kv_gym.problems.grading import extract_answer

    return extract_answer(text)


def _answer_line(name: str, answer: str | None, words: str) -> str:
    return f"{_safe(name):20} {_safe(answer):20} {words}".rstrip()


def _safe(text: str | None) -> str:
    from kv_gym.show.frames import printable

    one_line = printable("(no answer)" if text is None else text).replace("\n", " ")
    return one_line if len(one_line) <= ANSWER_CHARS else f"{one_line[: ANSWER_CHARS - 1]}…"


def show(frames: Iterator[Frame], delay: float) -> Frame:
    """Show frames as they come, or, where stdout is no terminal, the last one.

    Args:
        frames: At least one.
        delay: Seconds to wait after each.

    Returns:
        The last frame.
    """
    from rich.console import Console

    from kv_gym.show.terminal import plain

    console = Console(highlight=False)
    if not sys.stdout.isatty() or console.is_dumb_terminal:
        *_, last = frames
        print(plain(last))
        return last
    return _show_live(console, frames, delay)


def _show_live(console: Any, frames: Iterator[Frame], delay: float) -> Frame:
    from rich.live import Live

    from kv_gym.show.terminal import view

    width, height = min(console.width, WIDEST), console.height - VERDICT_LINES
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        for frame in frames:
            live.update(view(frame, width, height, not console.no_color), refresh=True)
            time.sleep(delay)
    return frame
