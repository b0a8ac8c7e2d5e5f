"""`kv-gym models plan`: how much memory a model takes in an environment, and how many rows fit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kv_gym.commands.console import console
from kv_gym.commands.options import build_agent, parse_bytes, parse_settings, parse_width

if TYPE_CHECKING:
    from rich.table import Table

    from kv_gym.bench.widths import Need, Room
    from kv_gym.engine.memory import MemoryPlan


def plan(
    model: Annotated[str, typer.Argument(help="`tiny`, a hub id, a local folder or a .gguf file.")],
    env_id: Annotated[str, typer.Option("--env", help="Environment, such as KVEvict-AIME24-v0.")],
    device_memory: Annotated[
        str, typer.Option(help="Memory to plan with, such as 80GiB. Default: what is free on the device.")
    ] = "",
    agent: Annotated[
        str, typer.Option(metavar="NAME[,KEY=VALUE...]", help="Who plays. Default: one that needs nothing kept.")
    ] = "",
    budget: Annotated[int | None, typer.Option(help="Slots. Default: the most of the env's page.")] = None,
    missed_attention: Annotated[
        bool, typer.Option("--missed-attention", help="A full cache reads along, as in `kv-gym bench`.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another setting, such as dtype or device; repeat for more."),
    ] = None,
    width: Annotated[str, typer.Option(help="Rows to plan for. `auto`: as many as fit.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print bytes as JSON.")] = False,
) -> None:
    """Say what a benchmark holds in memory, from the model's config alone: no weights are read.

    Exits with 2 if not even one row fits, or not as many as --width says.
    """
    from kv_gym.bench.widths import most_on, playing, references

    options, rows = parse_settings(settings or []) | {"model": model}, parse_width(width)
    made = _plan(env_id, agent, budget, missed_attention, options)
    room = _room(device_memory, made.config.device)
    needs = [playing(made), references(made)]
    for need in needs:
        need.check(1, room)
    fits = [need.fits(room, most_on(room.device)) for need in needs]
    planned = [rows if isinstance(rows, int) else found for found in fits]
    if as_json:
        print(json.dumps(_bytes(needs, planned, fits, room), indent=2))
    else:
        _show(made, needs, planned, fits, room)
    for need, n in zip(needs, planned, strict=True):
        need.check(n, room)


def _plan(env_id: str, agent: str, budget: int | None, missed_attention: bool, options: dict[str, Any]) -> MemoryPlan:
    from kv_gym.config import env_page, make_config

    budget = budget or max(env_page(env_id).bench.budgets)
    # Replay needs what generate needs, and reads whole windows.
    config = make_config(env_id, **options, budget=budget, mode="replay", shadow=missed_attention)
    from kv_gym.bench.widths import asked_by
    from kv_gym.engine.memory import Asked, MemoryPlan
    from kv_gym.llm.loading import model_sizes

    sizes = model_sizes(config.model, config.revision, config.dtype, config.device)
    return MemoryPlan(sizes, config, asked_by(build_agent(agent)) if agent else Asked())


def _room(device_memory: str, name: str) -> Room:
    """The memory to plan with; a device whose memory is told needs not be here."""
    import torch

    from kv_gym.bench.widths import Room
    from kv_gym.errors import ConfigError
    from kv_gym.llm.device import find_device, free_memory

    if device_memory:
        return Room(parse_bytes(device_memory), torch.device(name))
    device = find_device(name)
    free = free_memory(device)
    if free is None:
        raise ConfigError(f"device={name!r} does not say how much memory is free. Use --device-memory, such as 16GiB.")
    return Room(free, device)


def _bytes(needs: list[Need], planned: list[int], fits: list[int], room: Room) -> dict[str, Any]:
    found: dict[str, Any] = {"free": room.free, "usable": room.size(0)}
    for need, n, most in zip(needs, planned, fits, strict=True):
        use = need.use(n)
        found[need.what] = {
            "fit": most, "rows": n, "peak": use.peak, "kept": use.kept, "moments": use.moments, "host": use.host,
        }  # fmt: skip
    return found


def _show(made: MemoryPlan, needs: list[Need], planned: list[int], fits: list[int], room: Room) -> None:
    terminal, shape, config = console(), made.shape, made.config
    terminal.print(
        f"{config.model} in {config.dtype}: {shape.n_layers} layers, {shape.n_q_heads} query and {shape.n_kv_heads} KV "
        f"heads of {shape.head_dim}; a slot in all of them is {shape.slot_bytes:,} bytes.\nbudget={config.budget}, "
        f"evict_every={config.evict_every}, texts of up to {made.capacity:,} tokens. {room.told()} may be used."
    )
    for need, n, most in zip(needs, planned, fits, strict=True):
        terminal.print()
        terminal.print(_table(need, n))
        terminal.print(f"{most:,} fit.")


def _table(need: Need, n: int) -> Table:
    """Bytes of one row and of N."""
    from rich.table import Table

    from kv_gym.engine.memory import in_words

    one, many = need.use(1), need.use(n)
    table = Table(need.what, box=None, pad_edge=False, header_style="bold")
    for rows in (1, n):
        table.add_column(f"{rows:,}", justify="right")
    for name, size in many.kept.items():
        if size:
            table.add_row(name, in_words(one.kept[name]), in_words(size))
    for name, size in many.moments.items():
        style = None if name == many.fullest else "dim"
        table.add_row(f"for a moment: {name}", in_words(one.moments[name]), in_words(size), style=style)
    table.add_row("at most at once", in_words(one.peak), in_words(many.peak), style="bold")
    if many.host:
        table.add_row("in the host's memory", in_words(one.host), in_words(many.host))
    return table
