"""The page of all agents says what their docstrings say."""

from __future__ import annotations

from pathlib import Path

from kv_gym.agents import agent_entries, known_agents
from kv_gym.commands.agent_pages import entry, render_agents, split_doc


def test_every_agent_is_described_with_options_and_source() -> None:
    text = render_agents(lambda path: f"code/{path.name}")
    for name in agent_entries():
        assert f"\n### {name}\n" in text and f"[{name}](#{name})" in text
    rkv = text.split("\n### rkv\n")[1].split("\n### ")[0]
    assert "    s = lam * I - (1 - lam) * R, [N, L, H_kv, S]" in rkv
    assert "| `lam` | `float` | `0.1` | Weight of the importance, 0 to 1. |" in rkv
    assert "[arXiv:2505.24133](https://arxiv.org/abs/2505.24133)" in rkv and "](code/rkv.py)" in rkv
    assert text.index("\n## Reference lines\n") < text.index("\n### golden\n") < text.index("\n### golden-sum\n")
    assert "**Trained**: " in text.split("\n### foresight\n")[1].split("\n### ")[0]


def test_without_a_link_the_class_is_named() -> None:
    text = entry("h2o", known_agents()["h2o"], lambda path: None)
    assert "- **Code**: `kv_agents.heuristics.h2o:H2O`" in text and "- **Accumulators**: `total_attention`" in text


def test_source_files_are_where_they_are_said_to_be() -> None:
    seen: list[Path] = []
    render_agents(lambda path: seen.append(path))
    assert len(seen) == len(agent_entries()) and all(path.is_file() for path in seen)


def test_sections_of_a_docstring_are_told_apart() -> None:
    doc = "First.\n\n    s = x\n\nArgs:\n    a: b\n\nSource: P, arXiv:2601.00001. Differs: not\n    much.\n"
    assert split_doc(doc) == (
        "First.\n\n    s = x", {"Args": "a: b", "Source": "P, arXiv:2601.00001.", "Differs": "not much."}
    )  # fmt: skip
