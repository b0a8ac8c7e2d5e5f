"""A Markdown page of every installed agent, made from its docstring: what it keeps, its formula, options and source.

Nothing about agents is written here: to change an entry, change the docstring of its class.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kv_gym.agents import agent_options, known_agents
from kv_gym.commands.pages import join_parts, listed, plain_doc, table

ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
HEAD = re.compile(r"^(Args|Attributes|Raises|Source|Differs):(.*)", re.M)
GROUPS = {
    "Rules": "Scores by a formula of what is in the cache.",
    "Learned": "Scores by a trained network: s = w2 gelu(W1 (x - mean) / std + b1) + b2 of what it reads of a slot "
    "(`kv_agents.learned.scorer`).",
    "Reference lines": "They know the future, or keep everything: never ranked.",
}


def render_agents(source: Callable[[Path], str | None] = lambda path: None) -> str:
    """Describe all installed agents.

    Args:
        source: The link to a source file; None where there is none.
    """
    agents = known_agents()
    parts = [
        "# All agents",
        "Made from the docstrings of what is installed here; `kv-gym agents NAME` shows one in the terminal. Shapes: "
        "N episodes, L layers, H_kv KV heads, S slots; the lowest scores go. A *group* is the query heads that share "
        "a KV head.",
        table(("agent", "what it does"), ((f"[{name}](#{name})", first_line(found)) for name, found in agents.items())),
    ]
    for title, told in GROUPS.items():
        members = [name for name, found in agents.items() if group_of(found) == title]
        parts += [f"## {title}", told, *(entry(name, agents[name], source) for name in members)] if members else []
    return join_parts(*parts)


def group_of(found: Any) -> str:
    """Which part of the page an agent stands in."""
    if found.uses_hindsight or not found.evicts:
        return "Reference lines"
    return "Learned" if hasattr(found, "about") else "Rules"


def first_line(found: Any) -> str:
    """What an agent does, in a line."""
    return plain_doc(found).partition("\n")[0]


def entry(name: str, found: Any, source: Callable[[Path], str | None]) -> str:
    """One agent: docstring, options, and where it is from."""
    text, sections = split_doc(plain_doc(found))
    options = [
        (f"`{option.name}`", f"`{option.type}`", "must be given" if option.default is None else f"`{option.default}`",
         option.meaning) for option in agent_options(found)
    ]  # fmt: skip
    facts = [f"**{head}**: {with_links(told)}" for head, told in sections.items() if head in ("Source", "Differs")]
    if not isinstance(found.needs, property) and found.needs:
        facts.append(f"**Accumulators**: {listed(found.needs)}")
    if hasattr(found, "about"):
        facts.append(f"**Trained**: {found.about()}.")
    link, shown = source(Path(inspect.getfile(found))), f"`{found.__module__}:{found.__qualname__}`"
    facts.append(f"**Code**: [{shown}]({link})" if link else f"**Code**: {shown}")
    choices = table(("option", "type", "default", "meaning"), options) if options else ""
    return join_parts(f"### {name}", with_links(text), choices, "\n".join(f"- {fact}" for fact in facts))


def split_doc(doc: str) -> tuple[str, dict[str, str]]:
    """(What stands before the first section, the sections by name; each on one line)."""
    pieces = HEAD.split(doc)
    triples: Iterator[tuple[str, str, str]] = zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True)
    sections = {}
    for head, same_line, below in triples:
        told = " ".join((same_line + below).split())
        told, _, differs = told.partition(" Differs: ")  # some say both in one line
        sections[head] = told
        if differs:
            sections["Differs"] = differs
    return pieces[0].strip(), sections


def with_links(text: str) -> str:
    """Papers by their addresses."""
    return ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", text)
