"""What to cite: every arXiv id of an agent's docstring has an entry, and the suite's is that of CITATION.cff."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import yaml

from kv_gym.agents import agent_class, known_agents
from kv_gym.commands import main as cli
from kv_gym.commands.bibtex import ARXIV, SUITE, entries_of, papers_of

ROOT = Path(__file__).parents[3]
MINE = '''
from kv_agents.base import Agent


class Mine(Agent):
    """Keep the newest.

    Source: Nobody, arXiv:2601.00001, after arXiv:2505.24133.
    """

    name = "mine"

    def score(self, slots):
        return slots.positions.float()


class Plain(Mine):
    """Keep nothing."""

    name = "plain"
'''


def typed(*words: str, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*words])
    assert (ended.value.code or 0) == code


def test_every_paper_that_an_agent_names_is_known() -> None:
    for name, kind in known_agents().items():
        for number, entry in papers_of(kind).items():
            assert entry, f"papers.bib has no entry for arXiv:{number}, which {name} names"


def test_every_entry_is_whole_and_somebodys() -> None:
    entries = entries_of(agent_class("rkv"))
    named = {number for kind in known_agents().values() for number in ARXIV.findall(inspect.getdoc(kind) or "")}
    assert entries.keys() == named
    keys = [re.match(r"@article\{(\w+),", entry)[1] for entry in entries.values()]  # type: ignore[index]
    assert len(set(keys)) == len(keys)
    for number, entry in entries.items():
        fields = re.findall(r"^  (\w+) = \{(.*)\},$", entry, re.MULTILINE)
        assert [name for name, _ in fields] == ["title", "author", "year", "eprint", "archivePrefix"], entry
        assert entry.count("{") == entry.count("}") and dict(fields)["year"] == f"20{number[:2]}"


def test_papers_are_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    typed("agents", "rkv", "--bibtex")
    out = capsys.readouterr().out
    assert out.startswith("@article{cai2025rkv,") and out.rstrip().endswith("}") and out.count("@") == 1
    typed("agents", "--bibtex")
    out = capsys.readouterr().out
    assert out.count("eprint = {2602.03203}") == 1 and out.count("@article") == len(entries_of(agent_class("rkv")))


def test_what_nobody_knows_is_not_made_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    typed("agents", "mine.py:Mine", "--bibtex")
    told = capsys.readouterr()
    assert "eprint = {2601.00001}" in told.out and "author" not in told.out and "2601.00001, 2505.24133" in told.err
    entry = "@misc{me,\n  title = {A {B}},\n  eprint = {2601.00001},\n}"
    (tmp_path / "papers.bib").write_text(f"% mine\n{entry}\n\n@misc{{other,\n  eprint = {{1}},\n}}\n")
    assert papers_of(agent_class("mine.py:Mine")) == {"2601.00001": entry, "2505.24133": ""}
    typed("agents", "mine.py:Plain", "--bibtex", code=2)
    assert "mine.py:Plain: its docstring names no paper. A line such as" in capsys.readouterr().err
    typed("agents", "rkv", "--bibtex", "--json", code=2)


def test_the_suite_is_cited_as_its_citation_file_says(capsys: pytest.CaptureFixture[str]) -> None:
    typed("--bibtex")
    assert capsys.readouterr().out.strip() == SUITE
    file = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    plain = SUITE.replace("{", "").replace("}", "")
    for said in (file["title"], file["authors"][0]["name"], str(file["date-released"].year), file["version"]):
        assert said in plain
