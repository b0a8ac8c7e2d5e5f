"""Which tokens an agent loses is told by hand, refused where it cannot be, and read from a run."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kv_agents.heuristics.full import FullCache
from kv_agents.heuristics.random import Random
from kv_agents.heuristics.rkv import RKV
from kv_agents.heuristics.streaming import Streaming
from test_report import make_row, make_run

from kv_gym.bench.agreement import agree, rank
from kv_gym.bench.benchmark import run_bench
from kv_gym.bench.intervals import Interval
from kv_gym.bench.plan import Bench
from kv_gym.bench.rows import EpisodeRow, RowFileError, packed
from kv_gym.bench.texts import PACKED, read_texts, text_key, unpacked
from kv_gym.bench.texts import packed as packed_losses
from kv_gym.bench.token_losses import Tokens, sums_of, token_sums
from kv_gym.bench.token_report import build_token_report, token_markdown, token_tables
from kv_gym.commands import main as cli
from kv_gym.errors import ConfigError

FULL = [0.5, 1.25, 2.0, 0.5, 0.5]
NEAR = [2.0, 2.5, 9.0, 1.5, 0.5]  # tokens 0 and 1 are long-range: of 2 the full cache is not sure, of 3 it is 1 nat
MINE = [1.0, 4.25, 2.0, 2.0, 0.25]
LOSSES = {"full": FULL, "streaming": NEAR, "rkv": MINE, "random": [4 + loss for loss in FULL], "h2o": FULL}
KINDS: dict[str, dict[str, Any]] = {"full": {"evicts": False}, "golden": {"uses_hindsight": True}}


def replayed(problem: int, agent: str, losses: list[float], **changes: Any) -> EpisodeRow:
    values = {"mode": "replay", "loss": float(np.mean(losses)), "loss_full": float(np.mean(FULL[: len(losses)]))}
    return make_row(problem, agent, **values | KINDS.get(agent, {}) | changes)


def store(folder: Path, losses: dict[str, Any]) -> None:
    """Write losses, a list or what shall stand in their place, by the key of their text."""
    lines = [
        {"key": key, "text": "t"} | ({} if values is None else {"losses": _told(values)})
        for key, values in losses.items()
    ]
    data = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / PACKED).write_bytes(gzip.compress(data.encode()))


def _told(values: Any) -> Any:
    return packed_losses(torch.tensor(values)) if isinstance(values, list) else values


def made(folder: Path, **losses: Any) -> list[EpisodeRow]:
    """Rows and texts of three problems with the losses of `LOSSES`, or with other ones."""
    rows, texts = [], {}
    for agent, values in (LOSSES | losses).items():
        for problem in range(3):
            rows.append(replayed(problem, agent, values if isinstance(values, list) else MINE))
            texts[text_key(rows[-1])] = values
    store(folder, texts)
    return rows


def typed(*arguments: str, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    assert ended.value.code == code


def test_the_sums_of_a_text_by_hand() -> None:
    found = sums_of(Tokens(*(np.array(values) for values in (MINE, FULL, NEAR))))
    assert (found.n_tokens, found.n_long_range) == (5, 2)
    assert found.sums == {"long_range": (3.5, 2), "elsewhere": (0.0 + 1.5 - 0.25, 3), "newly_lost": (1.0, 5)}


def test_means_are_over_tokens_and_ratios_as_in_the_report(tmp_path: Path) -> None:
    """An episode counts by its tokens; one without long-range tokens adds none to their mean."""
    texts = {
        "full": (FULL, [0.5, 0.5]), "streaming": (NEAR, [1.0, 1.0]), "rkv": (MINE, [2.5, 0.5]),
    }  # fmt: skip
    rows, keyed = [], {}
    for agent, both in texts.items():
        for problem, losses in enumerate(both):
            full = texts["full"][problem]
            rows.append(replayed(problem, agent, losses, loss_full=float(np.mean(full))))
            keyed[text_key(rows[-1])] = losses
    store(tmp_path, keyed)
    report = build_token_report(rows, tmp_path)
    assert [cell.agent for cell in report.cells] == ["rkv", "streaming"]
    cell = report.cells[0]
    assert (cell.n_problems, cell.n_episodes, cell.n_tokens, cell.n_long_range) == (2, 2, 7, 2)
    values = {key: interval.value for key, interval in cell.measures.items() if interval}
    assert values.keys() == {"loss_ratio", "long_range", "elsewhere", "newly_lost"}
    assert values["long_range"] == 3.5 / 2
    assert values["elsewhere"] == pytest.approx((1.25 + 2.0) / 5)
    assert values["newly_lost"] == pytest.approx(2 / 7)
    assert values["loss_ratio"] == pytest.approx((1.9 + 1.5) / (0.95 + 0.5))
    long_range = cell.measures["long_range"]
    assert long_range is not None and long_range.low == long_range.high == 1.75  # samples without the first have none


def test_the_interval_draws_problems(tmp_path: Path) -> None:
    rows = made(tmp_path)
    mine = next(one.measures["long_range"] for one in build_token_report(rows, tmp_path).cells if one.agent == "rkv")
    assert mine is not None and (mine.low, mine.value, mine.high) == (1.75, 1.75, 1.75)
    other = [row for row in rows if (row.agent, row.problem) != ("rkv", "p0")] + [replayed(0, "rkv", NEAR)]
    keyed = {text_key(row): LOSSES[row.agent] for row in other} | {text_key(other[-1]): NEAR}
    store(tmp_path, keyed)
    mine = next(one.measures["long_range"] for one in build_token_report(other, tmp_path).cells if one.agent == "rkv")
    assert mine is not None and mine.value == pytest.approx((3.5 + 3.5 + 2.75) / 6)
    assert (mine.low, mine.high) == (pytest.approx(2.75 / 2), 1.75)


def test_what_the_tables_say(tmp_path: Path) -> None:
    columns = {"loss_low": 0.4, "loss_low_full": 0.2, "loss_high": 3.0, "loss_high_full": 2.0}
    rows = made(tmp_path)
    rows = [replayed(int(row.problem[1]), row.agent, LOSSES[row.agent], **columns) for row in rows]
    report = build_token_report(rows, tmp_path, n_other=4)
    [table] = token_tables(report)
    assert table.title == "64 slots: 3 problems, 15 tokens, 6 long-range"
    assert table.heads == (
        "loss ratio", "low entropy", "high entropy", "long-range, nats", "elsewhere, nats", "newly lost, %",
    )  # fmt: skip
    assert [line.agent for line in table.lines] == ["h2o", "rkv", "streaming", "random"]
    told = [entry.text.partition(" ")[0] for entry in table.lines[1].entries]
    assert told == ["2.00", "2.00", "1.50", "1.75", "0.417", "20.0"]
    assert [half.heads for half in token_tables(report, split=True)] == [table.heads[:3], table.heads[3:]]
    text = token_markdown(report)
    assert "| rkv | 2.00 [2.00, 2.00] |" in text and "4 rows of other settings" in text
    [cell] = [cell for cell in report.to_json()["cells"] if cell["agent"] == "random"]
    assert cell["elsewhere"] == {"value": 4.0, "low": 4.0, "high": 4.0} and cell["n_long_range"] == 6


def test_an_agent_is_measured_on_what_both_references_played(tmp_path: Path) -> None:
    rows = made(tmp_path)
    rows = [row for row in rows if (row.agent, row.problem) not in {("streaming", "p2"), ("rkv", "p1")}]
    sums = token_sums([*rows, replayed(4, "h2o", FULL, failed="no", loss=None)], tmp_path)
    assert {row.problem for row in rows if row.key in sums} == {"p0", "p1"}
    [table] = token_tables(build_token_report(rows, tmp_path))
    assert table.title.endswith("; rkv: 1 problems, 5 tokens, 2 long-range")


@pytest.mark.parametrize("missing", ["full", "streaming"])
def test_budgets_without_a_reference_are_refused(tmp_path: Path, missing: str) -> None:
    rows = made(tmp_path)
    with pytest.raises(ConfigError, match=f"at budget 64 there is no replayed episode of {missing}, .*--agent full"):
        token_sums([row for row in rows if row.agent != missing], tmp_path)
    apart = [
        row for row in rows if row.agent not in ("full", "streaming") or (row.agent == "full") == (row.problem == "p0")
    ]
    with pytest.raises(ConfigError, match="no episode of both full and streaming"):
        token_sums(apart, tmp_path)


def test_two_definitions_are_refused(tmp_path: Path) -> None:
    rows = made(tmp_path)
    other = [replayed(i, "streaming", NEAR, agent_source="m:streaming(n_sink=0)") for i in range(3)]
    texts = {text_key(row): LOSSES[row.agent] for row in [*rows, *other]}
    store(tmp_path, texts)
    with pytest.raises(
        ConfigError, match=r"two agents are called 'streaming' \(m:streaming, m:streaming\(n_sink=0\)\)"
    ):
        token_sums([*rows, *other], tmp_path)


def test_missing_losses_are_refused(tmp_path: Path) -> None:
    rows = made(tmp_path, rkv=None)
    with pytest.raises(
        ConfigError, match="no losses of 3 of 15 replayed episodes, as of rkv on p0 at budget 64.*--texts"
    ):
        token_sums(rows, tmp_path)
    (tmp_path / PACKED).unlink()
    with pytest.raises(ConfigError, match="no losses of 15 of 15"):
        token_sums(rows, tmp_path)
    with pytest.raises(ConfigError, match="--mode replay --texts"):
        token_sums([make_row(0)], tmp_path)


def test_losses_of_other_texts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rkv, full and streaming have 4, 5, 5 losses on p0 at budget 64"):
        token_sums(made(tmp_path, rkv=MINE[:4]), tmp_path)
    rows = made(tmp_path)
    store(tmp_path, {text_key(row): NEAR if row.agent == "rkv" else LOSSES[row.agent] for row in rows})
    with pytest.raises(RowFileError, match=r"rkv on p0 at budget 64 have the mean 3.1, and its row says 1.9.*Delete"):
        token_sums(rows, tmp_path)


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        (base64.b64encode(b"\0" * 9).decode(), "buffer size"),
        ("no base64!", "base64"),
        ("é", "ASCII"),
        (7, "no text"),
        ([0.5, float("nan")], "finite"),
        ([0.5, float("inf")], "finite"),
    ],
)
def test_damaged_losses_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str], losses: Any, said: str) -> None:
    rows = made(tmp_path)
    texts = {text_key(row): losses if row.agent == "rkv" else LOSSES[row.agent] for row in rows}
    store(tmp_path, texts)
    with pytest.raises(RowFileError, match=f"cannot be read: .*{said}.*Delete the file"):
        token_sums(rows, tmp_path)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(packed([make_run(), *rows], path))
    typed("report", str(tmp_path), "--tokens", code=2)
    assert "RowFileError" in capsys.readouterr().err


def test_agents_are_ranked_by_them(tmp_path: Path) -> None:
    rows = made(tmp_path)
    sums = token_sums(rows, tmp_path)
    agents = ("h2o", "random", "rkv")
    ranked = {by: rank(rows, agents, 64, by, sums) for by in ("long_range", "elsewhere", "newly_lost")}
    assert {by: found and found.numbers for by, found in ranked.items()} == {
        "long_range": [0.0, 4.0, 1.75], "elsewhere": [0.0, 4.0, pytest.approx(1.25 / 3)],
        "newly_lost": [0.0, pytest.approx(3 / 5), pytest.approx(1 / 5)],
    }  # fmt: skip
    assert rank(rows, agents, 64, "long_range") is None
    near = made(tmp_path, streaming=FULL)
    assert rank(near, agents, 64, "long_range", token_sums(near, tmp_path)) is None  # there is no such token


def test_a_ranking_leaves_out_samples_without_a_long_range_token(tmp_path: Path) -> None:
    rows = made(tmp_path)
    texts = {text_key(row): LOSSES[row.agent] for row in rows}
    plain = [row for row in rows if row.problem != "p0"]
    plain += [replayed(0, agent, FULL) for agent in LOSSES]
    store(tmp_path, texts | {text_key(row): FULL for row in plain if row.problem == "p0"})
    agents = ("h2o", "random", "rkv")
    one = rank(plain, agents, 64, "long_range", token_sums(plain, tmp_path))
    other = rank(rows, agents, 64, "loss_ratio")
    assert one is not None and other is not None
    assert other.draws.shape[1] > one.draws.shape[1] > 0.9 * other.draws.shape[1]  # 1 of 27 draws p0 three times
    for first, second in ((one, other), (other, one)):
        assert agree(first, second).tau == Interval(1.0, 1.0, 1.0)


def test_the_command_compares_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, changed in (("one", {}), ("other", {"h2o": [9.0] * 5, "tova": MINE})):
        (tmp_path / name).mkdir()
        rows = made(tmp_path / name, **changed)
        path = tmp_path / name / "rows.jsonl"
        path.write_bytes(packed([make_run(), *rows], path))
    both = [str(tmp_path / "one"), str(tmp_path / "other")]
    typed("agreement", *both, "--by", "loss_ratio", "--by-b", "long_range", "--json")
    [found] = json.loads(capsys.readouterr().out)
    assert found["by"] == ["loss_ratio", "long_range"]
    assert found["agents"].keys() == {"h2o", "random", "rkv"}  # streaming defines the tokens
    assert found["agents"]["h2o"] == [1.0, 8.125] and found["tau"]["value"] == pytest.approx(-1 / 3)
    typed("agreement", *both, "--by", "newly_lost")
    told = capsys.readouterr()
    assert "newly_lost at 64 slots" in told.out and "4 agents: h2o, random, rkv, streaming" in told.err
    (tmp_path / "other" / PACKED).unlink()
    typed("agreement", *both, "--by-b", "long_range", code=2)
    assert "has no losses" in capsys.readouterr().err


def test_options_that_change_nothing_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = made(tmp_path)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(packed([make_run(), *rows], path))
    for options, said in (
        (["--plot", "a.png"], "no --plot"),
        (["--lost", "rkv", "--against", "full"], "no --lost"),
        (["--json", "--markdown"], "--json, --markdown were given"),
        (["--budget", "7"], "--budget 7: these rows have none in replay mode. There are 64."),
    ):
        typed("report", str(tmp_path), "--tokens", *options, code=2)
        assert said in " ".join(capsys.readouterr().err.split())


def test_a_run_is_reported(random_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"model": str(random_model), "max_new_tokens": 72, "evict_every": 8}
    agents = [Streaming(), FullCache(), RKV(), Random()]
    bench = Bench("KVEvict-AIME-v0", agents, [16, 24], problems=3, modes=["replay"], options=options, texts=True)
    path = tmp_path / "rows.jsonl"
    rows = run_bench(bench, path).rows
    typed("report", str(tmp_path), "--tokens", "--json")
    found = json.loads(capsys.readouterr().out)
    assert {(cell["agent"], cell["budget"]) for cell in found["cells"]} == {
        (agent, budget) for agent in ("streaming", "rkv", "random") for budget in (16, 24)
    }
    typed("report", str(tmp_path), "--json")
    plain = {(cell["agent"], cell["budget"]): cell for cell in json.loads(capsys.readouterr().out)["cells"]}
    kept = {text["key"]: unpacked(text["losses"]) for text in read_texts(tmp_path)}
    for cell in found["cells"]:
        assert cell["loss_ratio"] == plain[cell["agent"], cell["budget"]]["loss_ratio"]
        mine = [row for row in rows if (row.agent, row.budget) == (cell["agent"], cell["budget"])]
        assert cell["n_problems"] == len(mine) == 3
        share = cell["n_long_range"] / cell["n_tokens"]
        increase = share * cell["long_range"]["value"] + (1 - share) * cell["elsewhere"]["value"]
        full = {row.problem: row for row in rows if (row.agent, row.budget) == ("full", cell["budget"])}
        pairs = [(kept[text_key(row)], kept[text_key(full[row.problem])]) for row in mine]
        all_of_them = np.concatenate([ours - theirs for ours, theirs in pairs])
        assert 0 < cell["n_long_range"] < cell["n_tokens"] == len(all_of_them)
        assert increase == pytest.approx(float(all_of_them.mean()))  # both kinds together are all tokens
    typed("report", str(tmp_path), "--tokens", "--budget", "24")
    told = capsys.readouterr().out
    assert "24 slots: 3 problems" in told and "16 slots" not in told and "newly lost" in told
    typed("report", str(tmp_path), "--tokens", "--markdown")
    assert "| agent | loss ratio |" in capsys.readouterr().out
    run_bench(replace(bench, agents=[RKV()], budgets=[32]), path)
    typed("report", str(tmp_path), "--tokens", code=2)
    assert "at budget 32 there is no replayed episode of full and of streaming" in capsys.readouterr().err
