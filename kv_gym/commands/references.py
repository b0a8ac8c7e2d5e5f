"""`kv-gym references`: make the full-cache texts of an environment in advance, many side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kv_gym.commands.console import console, watched
from kv_gym.commands.options import Settings, parse_settings, parse_width
from kv_gym.errors import ConfigError

if TYPE_CHECKING:
    from kv_gym.bench.plan import Episode
    from kv_gym.config import EnvConfig


def references(
    env_id: Annotated[str, typer.Argument(help="Environment, such as KVEvict-AIME-v0; `kv-gym envs` lists them.")],
    split: Annotated[str, typer.Option(help="Split of the problems: train, validation or test.")] = "train",
    problems: Annotated[int | None, typer.Option(min=1, help="How many. Default: all that the env plays.")] = None,
    budget: Annotated[int | None, typer.Option(help="Slots, to say what can be played. Default: the env's.")] = None,
    problem_seeds: Annotated[int, typer.Option(min=1, help="Draw made problems anew with so many seeds.")] = 1,
    width: Annotated[str, typer.Option(help="Texts side by side; auto: as many as fit into memory.")] = "auto",
    settings: Settings = None,
) -> None:
    """Let the LLM solve an environment's problems with its full cache, and keep the texts.

    Each episode begins with such a text, and a training that meets a new problem waits for it. Many side by side take
    little longer than one; what is there already is not made again. Stopped, it goes on where it was.
    """
    from kv_gym.bench.plan import prepare
    from kv_gym.bench.widths import find_widths
    from kv_gym.config import make_config
    from kv_gym.files import cache_folder
    from kv_gym.llm.loading import load_llm

    options: dict[str, Any] = parse_settings(settings or []) | {"split": split}
    options |= {} if problems is None else {"n_problems": problems}
    options |= {} if budget is None else {"budget": budget}
    config = make_config(env_id, **options)
    if config.temperature:
        raise ConfigError(
            f"temperature={config.temperature:g}: texts are drawn, another for each episode, so none can be made in "
            "advance. Use --set temperature=0 here and in the environment."
        )
    widths = find_widths(parse_width(width), [config], [])
    llm = load_llm(config.model, config.revision, config.dtype, config.device)
    folder = cache_folder() / "references"
    made = watched(
        lambda progress: prepare(llm, config, 1, widths.references, progress, problem_seeds), folder, "texts"
    )
    console().print(summary(made, config, folder))


def summary(made: list[Episode], config: EnvConfig, folder: Path) -> str:
    """What there is now, in three lines."""
    from kv_gym.bench.plan import plays

    found, n = [episode.reference for episode in made], len(made)
    new = sum(episode.seconds is not None for episode in made)
    played = sum(plays(reference, config) for reference in found)
    solved = sum(reference.correct for reference in found) / n
    ended = sum(reference.stop == "eos" for reference in found) / n
    tokens = sum(len(reference) - reference.n_prompt for reference in found) / n
    return (
        f"{n} full-cache texts of the {config.split} split, {new} of them new: {folder}\n"
        f"{tokens:.0f} tokens on average, {solved:.0%} right, {1 - ended:.0%} cut off at max_new_tokens\n"
        f"{played} can be played at budget {config.budget}, evict_every {config.evict_every}"
    )
