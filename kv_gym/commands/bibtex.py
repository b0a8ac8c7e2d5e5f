"""What to cite: the papers of agents, and the suite, as BibTeX."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import typer

from kv_gym import __version__
from kv_gym.commands.console import say
from kv_gym.errors import ConfigError

FILE = "papers.bib"
ARXIV = re.compile(r"arXiv[: ]\s*(\d{4}\.\d{4,5})", re.IGNORECASE)
EPRINT = re.compile(r"^\s*eprint\s*=\s*[{\"](.+?)[}\"]", re.MULTILINE)
SUITE = f"""@software{{kvgym,
  title = {{kv-gym: a Gymnasium suite for key-value cache eviction in reasoning {{LLMs}}}},
  author = {{{{The kv-gym maintainers}}}},
  year = {{2026}},
  version = {{{__version__}}},
}}"""
"""As CITATION.cff, which is no part of a wheel."""


def print_suite(wanted: bool) -> None:
    """Print how to cite the suite, and stop."""
    if wanted:
        print(SUITE)
        raise typer.Exit


def print_papers(agents: dict[str, type]) -> None:
    """Print the papers of agents, each once.

    Raises:
        ConfigError: None of them names one.
    """
    found = {number: entry for kind in agents.values() for number, entry in papers_of(kind).items()}
    if not found:
        raise ConfigError(
            f"{', '.join(agents)}: its docstring names no paper. A line such as 'Source: R-KV, arXiv:2505.24133.' "
            f"does, and an entry with that eprint in a {FILE} beside it, or above it in its package, says who wrote it."
        )
    print("\n\n".join(entry or _unknown(number) for number, entry in found.items()))
    if missing := [number for number, entry in found.items() if not entry]:
        say(f"No {FILE} has authors and title of {', '.join(missing)}.")


def papers_of(kind: type) -> dict[str, str]:
    """BibTeX entries of the papers that the docstring of an agent's class names, by arXiv id; "" where nobody knows."""
    entries = entries_of(kind)
    numbers = ARXIV.findall(inspect.getdoc(kind) or "")
    return {number: entries.get(number, "") for number in numbers}


def entries_of(kind: type) -> dict[str, str]:
    """Entries of the nearest file of papers by their eprints: beside the class's file, or above it in its package."""
    file = Path(inspect.getfile(kind))
    for folder in file.parents[: len(kind.__module__.split("."))]:
        if (folder / FILE).is_file():
            text = (folder / FILE).read_text(encoding="utf-8")
            parts = [part.partition("\n}")[0] + "\n}" for part in re.split(r"^(?=@)", text, flags=re.MULTILINE)[1:]]
            return {found[1]: part for part in parts if (found := EPRINT.search(part))}
    return {}


def _unknown(number: str) -> str:
    return f"@misc{{arxiv{number},\n  eprint = {{{number}}},\n  archivePrefix = {{arXiv}},\n}}"
