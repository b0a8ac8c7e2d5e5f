"""`kv-gym explain`, from rows to table, picture and page."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image

from kv_gym.bench.intervals import Interval
from kv_gym.commands import main as cli
from kv_gym.show.explain.duel import Bout, Duel
from kv_gym.show.explain.explanation import Cut, Explanation, Group, Measures
from kv_gym.show.explain.page import build_page
from kv_gym.show.explain.plot import head_map
from kv_gym.show.explain.tables import grids

ENV = "KVEvict-AIME-v0"
MINE = '''
from kv_agents.base import Agent


class Newest(Agent):
    """Keep the newest."""

    name = "newest"

    def score(self, slots):
        return slots.positions.float()
'''
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Call the program in an empty folder; return (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    return call


@pytest.fixture
def rows(run: Run, random_model: Path, tmp_path: Path) -> Path:
    """Two settings of one agent, one from a file, and the full cache."""
    agents = ["rkv,lam=0.5", "rkv", "snapkv as other", "mine.py:Newest", "full"]
    settings = [f"--set=model={random_model}", "--set=max_new_tokens=72", "--set=evict_every=8"]
    named = [f"--agent={agent}" for agent in agents]
    code, _, err = run("bench", ENV, "--problems=3", "--budget=40", "--no-plot", *settings, *named, "--out=rows")
    assert code == 0, err
    return tmp_path / "rows"


def test_two_settings_of_one_agent(run: Run, rows: Path, tmp_path: Path) -> None:
    told = ["--agent=rkv lam=0.5", "--against=rkv lam=0.1", "--episodes=3", "--plot=a.svg", "--html=b/page.html"]
    code, out, err = run("explain", rows, *told)
    assert code == 0, err
    assert "2 episodes replayed" in out, "in the third nothing goes before the answer"
    assert "rkv lam=0.1 better" in out and "another now" not in err
    assert (tmp_path / "a.svg").stat().st_size > 5000
    text = (tmp_path / "b" / "page.html").read_text()
    assert "<script" not in text and "rkv lam=0.5" in text and "golden attention" in text
    code, out, _ = run("explain", rows, *told[:3], "--json")
    found = json.loads(out)
    assert code == 0 and found["agents"] == ["rkv lam=0.5", "rkv lam=0.1"] and found["budget"] == 40
    (whole,) = next(cut for cut in found["cuts"] if cut["key"] == "all")["groups"]
    assert whole["of"]["rkv lam=0.5"]["evicted"] == 1.0 and whole["of"]["rkv lam=0.5"]["lost"]["value"] > 0


def test_named_agents_and_files(run: Run, rows: Path) -> None:
    code, out, err = run("explain", rows, "--agent=other", "--against=full", "--episodes=2")
    assert code == 0 and "full better" in out and "another now" not in err
    code, out, err = run("explain", rows, "--agent=mine.py:Newest", "--episodes=3")
    assert code == 0 and "newest" in out and "another now" not in err
    (rows.parent / "mine.py").write_text(MINE.replace("positions.float()", "positions.float() + 1"))
    code, _, err = run("explain", rows, "--agent=mine.py:Newest")
    assert code == 0 and "newest is another now than when these rows were played" in err
    code, _, err = run("explain", rows, "--agent=newest")
    assert code == 0, "the class of a file beside one is found by the name that rows hold"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--agent=othr"], "UnknownNameError: unknown agent 'othr' in these rows. Did you mean 'other'?"),
        (["--agent=rkv"], "UnknownNameError: unknown agent 'rkv' in these rows."),
        (["--agent=other", "--episodes=1"], "ConfigError: in none of the 1 episodes a slot goes before the answer"),
        (["--agent=h2o"], "UnknownNameError: unknown agent 'h2o' in these rows"),
        (["--agent=h2o,recent=4"], "UnknownNameError: unknown option 'recent' of agent 'h2o'"),
        (["--agent=full"], "ConfigError: agent 'full' evicts nothing, so there is nothing to explain"),
        (["--agent=other", "--against=other"], "ConfigError: --agent 'other' and --against 'other' are one"),
        (["--agent=other", "--budget=64"], "ConfigError: --budget 64: other did not play there. There are 40."),
        (["--agent=other", "--plot=a.docx"], "ConfigError: "),
    ],
)
def test_mistakes_are_told(run: Run, rows: Path, arguments: list[str], complaint: str) -> None:
    code, out, err = run("explain", rows, *arguments)
    assert code == 2 and out == "" and err.startswith(complaint), err


def test_rows_of_another_model_are_refused(run: Run, rows: Path) -> None:
    lines = [json.loads(line) for line in (rows / "rows.jsonl").read_text().splitlines()]
    changed = [line | ({"model_fingerprint": "0"} if line["kind"] == "episode" else {}) for line in lines]
    data = "".join(json.dumps(line) + "\n" for line in changed).encode()
    (rows / "old.jsonl.gz").write_bytes(gzip.compress(data))
    code, _, err = run("explain", rows / "old.jsonl.gz", "--agent=other")
    assert code == 2 and "is another now than that of these rows" in err


HOSTILE = "<img src=x onerror=alert(1)>{{lead}}&"


def explanation() -> Explanation:
    """Made by hand: two layers of two heads, two agents."""

    def measures(lost: float) -> Measures:
        return Measures(0.5, 0.25, None, Interval(lost, lost, lost), Interval(lost, 0.0, 1.0), 0.125)

    agents = (HOSTILE, "b")
    heads = [Group(f"layer {i}, KV head {j}", {HOSTILE: measures(0.1 * i), "b": measures(0.2 * j)}) for i in (0, 1) for j in (0, 1)]  # noqa: E501  # fmt: skip
    some = (Group(HOSTILE, {HOSTILE: measures(0.5), "b": measures(0.25)}),)
    keys = ("all", "type", "age", "family", "layer")
    bouts = tuple(Bout(f"{HOSTILE}{i}", HOSTILE, 0, 1.0, 0.0, 1.0 - i) for i in range(3))
    return Explanation(
        "E-v0", "tiny", "test", 64, 8, agents, (("p", "f", 0),), 5, 2, 2,
        (*(Cut(key, key, some) for key in keys), Cut("head", "head", tuple(heads))), Duel("accuracy", *agents, bouts),
    )  # fmt: skip


def test_a_page_shows_what_strangers_wrote_as_text() -> None:
    seen: list[tuple[str, dict[str, Any]]] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.append((tag, dict(attrs)))

    page = build_page(explanation(), f"kv-gym {HOSTILE}")
    Tags().feed(page)
    pictures = [attributes for tag, attributes in seen if tag == "img"]
    assert len(pictures) == 1 and str(pictures[0]["src"]).startswith("data:image/png")
    assert "script" not in {tag for tag, _ in seen} and not any("onerror" in attributes for _, attributes in seen)
    assert page.count("&lt;img src=x") > 5 and "1 problems on which b is better" in page


def test_tables_and_maps_by_hand() -> None:
    found = explanation()
    assert np.allclose(head_map(found), [[0, -20], [10, -10]])
    first = grids(found)[0]
    assert first.lines[0][2:] == ("50.0", "25.0", "", "50.00 [50.00, 50.00]", "50.00 [0.00, 100.00]", "12.50")
    assert [line[0] for line in first.lines] == [HOSTILE, ""]
    assert grids(found)[-1].lines[-1] == ("all", "1", "1", "1")


def test_the_picture_has_both_colours(tmp_path: Path) -> None:
    from kv_gym.bench.plots import looks_of
    from kv_gym.show.explain.plot import save_explanation_plot

    path = tmp_path / "here" / "a.png"
    save_explanation_plot(explanation(), path)
    pixels = (255 * image.imread(path)[::2, ::2, :3]).astype(int).reshape(-1, 3)
    colours = {tuple(pixel) for pixel in pixels}
    for colour, _ in looks_of([HOSTILE, "b"]).values():
        assert tuple(bytes.fromhex(colour[1:])) in colours
