"""Generated texts stand beside the rows, each once, whatever happens; and what one agent lost is found in them."""

from __future__ import annotations

import gzip
import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kv_agents.heuristics.full import FullCache
from kv_agents.heuristics.rkv import RKV
from kv_agents.heuristics.streaming import Streaming

from kv_gym.bench.benchmark import run_bench
from kv_gym.bench.lost import Lost, agent_text, lost_episodes, record_command
from kv_gym.bench.plan import Bench
from kv_gym.bench.rows import RowFileError, read_rows
from kv_gym.bench.texts import OPEN, PACKED, TextFile, answers, read_texts, text_key, unpacked
from kv_gym.commands import main as cli
from kv_gym.commands.options import parse_agent
from kv_gym.engine.records import EpisodeRecord
from kv_gym.engine.reference import ReferenceStore
from kv_gym.errors import UnknownNameError
from kv_gym.llm.loading import load_llm
from kv_gym.problems import problem_source

ENV = "KVEvict-AIME-v0"


@pytest.fixture(scope="module")
def bench(random_model: Path) -> Bench:
    options = {"model": str(random_model), "max_new_tokens": 72, "evict_every": 8}
    return Bench(ENV, [Streaming(), FullCache()], [24], problems=3, modes=["generate"], options=options, texts=True)


@pytest.fixture(scope="module")
def folder(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    run_bench(bench, folder / "rows.jsonl")
    return folder


def typed(*arguments: str, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    assert ended.value.code == code


def test_every_row_has_its_text(bench: Bench, folder: Path) -> None:
    rows = read_rows(folder / "rows.jsonl").episodes.values()
    texts = {text["key"]: text for text in read_texts(folder)}
    assert texts.keys() == {text_key(row) for row in rows} and len(texts) == 6
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".lock") == ["rows.jsonl", PACKED]
    config = bench.config(24, "generate")
    llm = load_llm(config.model, config.revision, config.dtype, config.device)
    store = ReferenceStore(llm, config)
    for row in rows:
        text = texts[text_key(row)]
        assert (text["agent"], text["problem"], text["tokens_sha256"]) == (row.agent, row.problem, row.tokens_sha256)
        if row.agent == "full":
            (reference,) = store.get([problem_source("aime").problem("test", 0, int(row.problem[-1]))])
            assert text["text"] == llm.decode(reference.tokens[reference.n_prompt :])
        assert text["text"]


def test_rows_without_a_text_are_played_for_it_and_stay(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert run_bench(replace(bench, texts=False), path).n_new == 6
    before = path.read_bytes()
    assert run_bench(bench, path).n_new == 0 and path.read_bytes() == before
    assert {text["key"] for text in read_texts(tmp_path)} == {
        text_key(row) for row in read_rows(path).episodes.values()
    }


def test_a_stop_between_packing_and_clearing_up_doubles_nothing(folder: Path, tmp_path: Path) -> None:
    lines = gzip.decompress((folder / PACKED).read_bytes())
    (tmp_path / PACKED).write_bytes((folder / PACKED).read_bytes())
    (tmp_path / OPEN).write_bytes(lines + b'{"key": "torn')
    (tmp_path / f".{PACKED}.77.tmp").write_bytes(b"draft of a killed writer")
    with TextFile(tmp_path) as texts:
        assert len(texts.known) == 6
        row = next(iter(read_rows(folder / "rows.jsonl").episodes.values()))
        record = EpisodeRecord(1.0, "eos", 3, 1, {}, "", "", "new", losses=torch.tensor([0.1, 2.5]))
        texts.add(row, replace(record, text="again"))  # is there already
        texts.add(row.model_copy(update={"seed": 7}), record)
    found = list(read_texts(tmp_path))
    [new] = [text for text in found if text["seed"] == 7]
    assert new["text"] == "new" and len(found) == 7
    assert unpacked(new["losses"]).tolist() == pytest.approx([0.1, 2.5], rel=1e-3)
    assert [path.name for path in tmp_path.iterdir()] == [PACKED]


@pytest.mark.parametrize(
    "content",
    [None, b"[1]\n", b'{"key": "a"}\n', b'{"key": [1], "text": "t"}\n', b"cut"],
    ids=["no-gzip", "list", "no-text", "no-name", "cut"],
)
def test_damaged_texts_say_so(tmp_path: Path, content: bytes | None) -> None:
    data = b"no gzip" if content is None else gzip.compress(content)[: -3 if content == b"cut" else None]
    (tmp_path / PACKED).write_bytes(data)
    with pytest.raises(RowFileError, match="Delete the file"):
        TextFile(tmp_path)
    assert (tmp_path / PACKED).read_bytes() == data


def test_what_one_lost_and_the_other_solved(folder: Path) -> None:
    rows = list(read_rows(folder / "rows.jsonl").episodes.values())
    solved = [row.model_copy(update={"correct": 1.0}) if row.agent == "full" and row.problem.endswith("/2") else row
              for row in rows]  # fmt: skip
    (one,) = lost_episodes(solved, "streaming", "full")
    assert (one.loser.agent, one.solver.agent, one.loser.problem) == ("streaming", "full", "aime/test/0/2")
    assert lost_episodes(solved, "full", "streaming") == [] == lost_episodes(rows, "streaming", "full")
    with pytest.raises(UnknownNameError, match="Did you mean 'streaming'"):
        lost_episodes(rows, "steaming", "full")
    with pytest.raises(UnknownNameError):
        lost_episodes(rows, "streaming", "full", [999])


def test_the_command_records_the_same_episode(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also with a problem of another seed, behind the env's number of problems, and an agent with other options."""
    agents = [RKV(lam=0.5), FullCache()]
    options = bench.options | {"problem_seed": 2, "instruction": "a # b: [c"}
    path = tmp_path / "rows.jsonl"
    run_bench(replace(bench, agents=agents, problems=2, problem_seeds=2, options=options, texts=False), path)
    found = read_rows(path)
    rows = {(row.agent, row.problem): row for row in found.episodes.values()}
    loser, solver = rows["rkv", "aime/test/3/1"], rows["full", "aime/test/3/1"]
    command = shlex.split(record_command(Lost(loser, solver), found.runs, str(tmp_path / "out")))
    assert command[:2] == ["kv-gym", "record"] and "rkv,lam=0.5" in command and "problem_seed=3" in command
    assert command[command.index("--problem") + 1] == "1"
    assert "instruction=a # b: [c" in command, "as it stands: YAML would end at the #"
    typed(*command[1:])
    recorded = [json.loads(gzip.decompress(file.read_bytes())) for file in sorted((tmp_path / "out").iterdir())]
    assert {one["agent"] for one in recorded} == {"rkv", "full"}
    for one in recorded:
        row = {"rkv": loser, "full": solver}[one["agent"]]
        assert one["problem"] == row.problem and one["budget"] == row.budget
        assert len(one["tokens"]["ids"]) == one["n_prompt"] + (row.n_tokens or 0)
    capsys.readouterr()


def test_agents_are_said_as_they_are_typed(bench: Bench, folder: Path) -> None:
    found = read_rows(folder / "rows.jsonl")
    row = next(row for row in found.episodes.values() if row.agent == "streaming")
    assert agent_text(row, found.runs[row.run_id]) == "streaming"
    (run,) = found.runs.values()
    of_a_file = {row.agent_sha256: {"parts": {"class": "mine.py:Mine", "options": {"heads": [0, 1]}}}}
    mine = row.model_copy(update={"agent": "mine"})
    assert agent_text(mine, run.model_copy(update={"agents": of_a_file})) == "mine.py:Mine,heads=[0, 1]"
    parts = {
        "class": "kv_agents.heuristics.rkv:RKV",
        "options": {"lam": 0.5, "n_obs": 8},
        "attributes": {"name": "mine"},
    }
    named = run.model_copy(update={"agents": {row.agent_sha256: {"parts": parts}}})
    assert agent_text(mine, named) == "rkv,lam=0.5 as mine"
    options = {"how": "a, b # c", "also": "yes", "none": None, "tau": 1e-7}
    odd = {row.agent_sha256: {"parts": {"class": "mine.py:Mine", "options": options}}}
    assert parse_agent(agent_text(mine, run.model_copy(update={"agents": odd}))) == ("mine.py:Mine", options)


def test_the_report_lists_them(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (folder / "rows.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for row in rows:
        if row.get("agent") == "full" and row["problem"].endswith("/1"):
            row["correct"] = 1.0
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / PACKED).write_bytes((folder / PACKED).read_bytes())
    typed("report", str(tmp_path), "--lost", "streaming", "--against", "full")
    told = capsys.readouterr()
    assert "aime/test/0/1" in told.out and "no answer" in told.out and " seed " not in told.out
    *_, why, record, replay = told.out.strip().splitlines()
    assert why.startswith("1 episodes. To see why") and "To see why" not in told.err
    assert record.startswith("kv-gym record") and replay.startswith("kv-gym replay")
    assert answers(tmp_path).keys() == answers(folder).keys()
    typed("report", str(tmp_path), "--lost", "full", "--against", "streaming")
    assert "full lost nothing that streaming solved" in capsys.readouterr().err
    typed("report", str(tmp_path), "--lost", "full", code=2)
    assert "--lost AGENT wants --against AGENT" in capsys.readouterr().err


def test_the_report_tells_seeds_apart(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    played = [row | {"correct": float(row["agent"] == "full")} for row in rows if row["kind"] == "episode"]
    every = [row for row in rows if row["kind"] == "run"] + [row | {"seed": seed} for seed in (0, 7) for row in played]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in every))
    typed("report", str(tmp_path), "--lost", "streaming", "--against", "full")
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["budget", "problem", "seed", "family"]
    assert [line.split()[1:3] for line in lines[:2]] == [["aime/test/0/0", "0"], ["aime/test/0/0", "7"]]


def test_the_report_refuses_options_that_change_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*options: str) -> str:
        typed("report", str(folder), *options, code=2)
        return " ".join(capsys.readouterr().err.split())

    lost = ("--lost", "streaming", "--against", "full")
    there = sorted({row.budget for row in read_rows(folder / "rows.jsonl").episodes.values()})
    known = ", ".join(map(str, there))
    assert f"--budget 7: these rows have none in generate mode. There are {known}." in refused(*lost, "--budget", "7")
    assert "--budget 7" in refused(*lost, "--budget", str(there[0]), "--budget", "7")
    for option in (("--json",), ("--markdown",), ("--plot", "a.png")):
        assert f"there is no {option[0]}" in refused(*lost, *option)
    assert "--budget chooses among the problems of --lost" in refused("--budget", str(there[0]))
    assert "--json, --markdown were given" in refused("--json", "--markdown")
    assert "--markdown, --plot were given" in refused("--markdown", "--plot", "a.png")


def test_the_loss_of_every_replayed_token_is_kept(bench: Bench, tmp_path: Path) -> None:
    bench = replace(bench, modes=["replay"])
    rows = {text_key(row): row for row in run_bench(bench, tmp_path / "rows.jsonl").rows}
    kept = {text["key"]: unpacked(text["losses"]) for text in read_texts(tmp_path)}
    assert kept.keys() == rows.keys() and len(rows) == 6
    for key, losses in kept.items():
        row = rows[key]
        assert float(losses.mean()) == pytest.approx(row.loss, rel=2e-3)
        full = next(kept[other] for other, one in rows.items() if one.problem == row.problem and one.agent == "full")
        assert len(full) == len(losses) and float(full.mean()) == pytest.approx(row.loss_full, rel=2e-3)
