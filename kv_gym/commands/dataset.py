"""`kv-gym dataset`: episodes of agents for offline RL, in Minari's format."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kv_gym.commands.console import console, say, watched
from kv_gym.commands.options import Settings, build_agent, parse_settings

dataset_app = typer.Typer(help="Episodes of agents as Minari datasets, for offline RL.", no_args_is_help=True)


@dataset_app.command()
def make(
    env_id: Annotated[str, typer.Argument(help="Environment, such as KVEvict-AIME-v0; `kv-gym envs` lists them.")],
    agent: Annotated[
        str,
        typer.Option(metavar="NAME[,KEY=VALUE...]", help="Agent by name, or path/to/mine.py:MyAgent, with options."),
    ],
    out: Annotated[str, typer.Option(metavar="ID", help="Id of the dataset, such as kvevict-aime/h2o-b96-v0.")],
    episodes: Annotated[int, typer.Option(min=1, help="The first so many problems of the split.")] = 100,
    budget: Annotated[int | None, typer.Option(help="Slots per layer and KV head. Default: the env's.")] = None,
    split: Annotated[str, typer.Option(help="Split of the problems: train, validation or test.")] = "train",
    mode: Annotated[str, typer.Option(help="replay: the full-cache text is forced; or generate.")] = "replay",
    seed: Annotated[int, typer.Option(min=0, help="Problem i is played with seed + i.")] = 0,
    num_envs: Annotated[int, typer.Option(min=1, help="Episodes side by side; they do not depend on it.")] = 16,
    settings: Settings = None,
) -> None:
    """Let an agent play, and keep what it saw, did and got as a Minari dataset.

    Load it with `minari.load_dataset(ID)`. Infos hold no hindsight; an agent that has it (golden) can be learned from.
    Stopped, the same command goes on where it was.
    """
    from kv_gym.envs.datasets import Recipe, Workshop, metadata_of

    options: dict[str, Any] = parse_settings(settings or []) | {"split": split, "mode": mode}
    options |= {} if budget is None else {"budget": budget}
    recipe = Recipe(out, env_id, build_agent(agent), episodes, options, seed)
    workshop = Workshop(recipe, num_envs)
    path = watched(workshop.make, workshop.folder, "episodes")
    console().print(told(metadata_of(out)))
    say(f"{path}: minari.load_dataset({out!r})")


@dataset_app.command()
def show(
    dataset_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="A dataset. Default: list all.")] = None,
) -> None:
    """Say what a dataset holds and how it was made, or list those that are here."""
    from kv_gym.envs.datasets import metadata_of, own_datasets

    if dataset_id is not None:
        console().print(told(metadata_of(dataset_id)))
        return
    found = own_datasets()
    console().print("\n".join(found) if found else "No dataset of kv-gym is here. `kv-gym dataset make` makes one.")


def told(metadata: dict[str, Any]) -> str:
    """A dataset in a few lines."""
    made, n = metadata["kv_gym"], metadata["total_episodes"]
    returns, git = made["returns"], made["git"] or {"commit": "unknown", "dirty": False}
    return "\n".join(
        [
            f"{metadata['dataset_id']}: {metadata['description']}",
            f"{n} episodes, {metadata['total_steps']} steps, {metadata['dataset_size']} MB",
            f"return {returns['mean']:.3f} on average ({returns['lowest']:.3f} to {returns['highest']:.3f}), "
            f"{made['solved']} right",
            f"agent {made['agent']}, commit {git['commit'][:8]}{' with changes' if git['dirty'] else ''}",
            f"made by: {made['command']}",
        ]
    )
