"""`kv-gym agents` and `kv-gym envs`: what there is."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from kv_gym.commands.console import console, say
from kv_gym.errors import ConfigError


def agents(
    name: Annotated[
        str, typer.Argument(help="One agent, or path/to/mine.py:MyAgent, with its options. Default: all, a line each.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    bibtex: Annotated[
        bool,
        typer.Option("--bibtex", help="Print what to cite: its papers, or those of all."),
    ] = False,
) -> None:
    """List the agents that are installed, or describe one: what it does, and the options that it takes."""
    if bibtex:
        _print_bibtex(name, as_json)
        return
    if name:
        _describe_one(name, as_json)
        return
    if as_json:
        _print_all()
        return
    from rich.table import Table
    from rich.text import Text

    from kv_gym.agents import GROUP, agent_entries

    table = Table("name", "class", "needs", "hindsight", "what it does", box=None, pad_edge=False, header_style="bold")
    for name, entry in agent_entries().items():
        try:
            table.add_row(*(Text(cell) for cell in (name, entry.value, *_describe(entry.load()))))
        except Exception as error:
            table.add_row(Text(name), Text(entry.value), "", "", Text(f"{type(error).__name__}: {error}", style="red"))
    if not table.row_count:
        raise ConfigError(f"no package offers agents (entry-point group {GROUP!r}). Install one: `pip install -e .`.")
    console().print(table)
    say("Your own: kv-gym bench ENV_ID --agent path/to/mine.py:MyAgent")


def envs(
    described: Annotated[
        str | None, typer.Option("--page", metavar="ID", help="Print the page of this environment instead.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--pages", metavar="FOLDER", help="Write the pages of all environments instead.")
    ] = None,
) -> None:
    """List the environments, or describe them."""
    if described or folder:
        from kv_gym.commands.pages import show_pages

        show_pages(described, folder)
        return
    from rich.table import Table

    from kv_gym.config import env_page
    from kv_gym.registry import env_ids

    table = Table("id", "title", "problems", "model", "bench budgets", box=None, pad_edge=False, header_style="bold")
    for env_id in env_ids():
        page = env_page(env_id)
        settings, budgets = page.settings, ", ".join(map(str, page.bench.budgets))
        source = settings.problems if isinstance(settings.problems, str) else " + ".join(settings.problems)
        table.add_row(env_id, page.title, f"{settings.n_problems} {source}", settings.model, budgets)
    console().print(table)


def _print_bibtex(name: str, as_json: bool) -> None:
    from kv_gym.agents import agent_class, known_agents
    from kv_gym.commands.bibtex import print_papers

    if as_json:
        raise ConfigError("--bibtex prints BibTeX and --json JSON. Use one of them.")
    print_papers({name: agent_class(name)} if name else dict(known_agents()))


def _describe(agent: Any) -> tuple[str, str, str]:
    """What an agent's class says about itself: needs, hindsight, first line and what it was trained on."""
    lines = (agent.__doc__ or "").strip().splitlines()
    needs = "" if isinstance(agent.needs, property) else ", ".join(agent.needs)
    about = f" Trained: {agent.about()}." if hasattr(agent, "about") else ""
    return needs, "yes" if agent.uses_hindsight else "", (lines[0] if lines else "") + about


def _facts(name: str, found: Any) -> dict[str, Any]:
    """What can be told of an agent, as JSON values."""
    from dataclasses import asdict

    from kv_gym.agents import agent_options

    needs, hindsight, line = _describe(found)
    return {
        "name": name, "class": f"{found.__module__}:{found.__qualname__}", "what": line, "needs": needs,
        "hindsight": bool(hindsight), "options": [asdict(option) for option in agent_options(found)],
    }  # fmt: skip


def _print_all() -> None:
    from kv_gym.agents import known_agents

    print(json.dumps([_facts(name, found) for name, found in known_agents().items()], indent=1))


def _describe_one(name: str, as_json: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    from kv_gym.agents import agent_class

    found: Any = agent_class(name)
    facts = _facts(name, found)
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    console().print(Text(f"{name} ({facts['class']})", style="bold"))
    console().print(Text(inspect.getdoc(found) or ""))
    table = Table("option", "type", "default", "meaning", box=None, pad_edge=False, header_style="bold")
    for option in facts["options"]:
        default = "must be given" if option["default"] is None else option["default"]
        table.add_row(*(Text(text) for text in (option["name"], option["type"], default, option["meaning"])))
    if table.row_count:
        console().print(table)
        first = facts["options"][0]
        say(f"Give options so: --agent {name},{first['name']}={first['default'] or '...'}")
