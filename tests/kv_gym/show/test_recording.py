"""A recording is the benchmark's episode, adds up, and survives a file; damaged files say what is wrong."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kv_agents.base import Agent
from kv_agents.golden import Golden
from kv_agents.heuristics.full import FullCache
from kv_agents.heuristics.random import Random
from kv_agents.heuristics.rkv import RKV
from torch import Tensor

from kv_gym.agents import AgentLike
from kv_gym.bench.benchmark import run_bench
from kv_gym.bench.plan import Bench
from kv_gym.commands import main as cli
from kv_gym.config import EnvConfig, make_config
from kv_gym.engine.episodes import EpisodeBatch
from kv_gym.engine.reference import Reference, ReferenceStore
from kv_gym.engine.slots import SlotView
from kv_gym.llm.frozen import FrozenLLM
from kv_gym.llm.loading import load_llm
from kv_gym.problems import problem_source
from kv_gym.show import recording
from kv_gym.show.recorder import record_episode, token_pieces
from kv_gym.show.recording import RecordedEpisode, RecordingError, read_recording, save_recording

ENV = "KVEvict-AIME-v0"
BUDGET, EVERY, N_NEW = 24, 8, 72
Played = dict[tuple[str, str], RecordedEpisode]
AGENTS: dict[str, Callable[[], AgentLike]] = {"random": Random, "rkv": RKV, "golden": Golden, "full": FullCache}


class Raises(Agent):
    """Raises at its third decision."""

    name = "raises"

    def score(self, slots: SlotView) -> Tensor:
        if int(slots.decision[0]) == 2:
            raise LookupError("no table")
        return slots.positions.float()


def settings(model: Path, mode: str) -> EnvConfig:
    options: dict[str, Any] = {"model": str(model), "max_new_tokens": N_NEW, "evict_every": EVERY, "split": "test"}
    return make_config(ENV, **options, budget=BUDGET, mode=mode)


def frozen(config: EnvConfig) -> FrozenLLM:
    return load_llm(config.model, config.revision, config.dtype, config.device)


def reference(config: EnvConfig, index: int = 1) -> Reference:
    problem = problem_source("aime").problem("test", 0, index)
    return ReferenceStore(frozen(config), config).get([problem])[0]


def record(model: Path, agent: AgentLike, mode: str = "generate", seed: int = 0) -> RecordedEpisode:
    config = settings(model, mode)
    return record_episode(frozen(config), config, agent, reference(config), ENV, seed)


@pytest.fixture(scope="module")
def played(random_model: Path) -> Played:
    """One recording for each agent and mode."""
    pairs = [(name, mode) for name in AGENTS for mode in ("generate", "replay")]
    return {(name, mode): record(random_model, AGENTS[name](), mode) for name, mode in pairs}


@pytest.mark.parametrize("mode", ["generate", "replay"])
@pytest.mark.parametrize("name", AGENTS)
def test_a_recording_is_the_episode_of_the_benchmark(
    random_model: Path, tmp_path: Path, played: Played, name: str, mode: str
) -> None:
    options = {"model": str(random_model), "max_new_tokens": N_NEW, "evict_every": EVERY}
    bench = Bench(ENV, [AGENTS[name]()], [BUDGET], problems=2, modes=[mode], options=options, missed_attention=True)  # type: ignore[list-item]
    row = run_bench(bench, tmp_path / "rows.jsonl").rows[1]
    episode = played[name, mode]
    assert episode.problem == row.problem == "aime/test/0/1"
    assert episode.tokens_sha256 == row.tokens_sha256 and episode.actions_sha256 == row.actions_sha256
    assert (episode.correct, episode.stop, episode.correct_full) == (row.correct, row.stop, row.correct_full)
    assert len(episode.tokens) == episode.n_prompt + (row.n_tokens or 0)
    if mode == "replay" and name != "full":
        steps = episode.steps
        assert len(steps) == row.n_steps
        for term in ("loss_spike", "attention_spike", "missed_attention"):
            assert sum(getattr(step, term) for step in steps) / len(steps) == pytest.approx(
                getattr(row, term), rel=1e-4
            )


@pytest.mark.parametrize("mode", ["generate", "replay"])
@pytest.mark.parametrize("name", ["random", "rkv", "golden"])
def test_recorded_evictions_played_by_hand_give_the_same_tokens(
    random_model: Path, played: Played, name: str, mode: str
) -> None:
    episode, config = played[name, mode], settings(random_model, mode)
    batch = EpisodeBatch(frozen(config), config, 1)
    batch.reset([0], [reference(config)], [0])
    for index, step in enumerate(episode.steps):
        positions = batch.cache.positions[:, 0].clone()  # [L, H_kv, S]
        gone = torch.tensor(step.evicted)  # [L, H_kv, evict_every]
        stays = ~(positions[..., None] == gone[..., None, :]).any(-1)
        assert (stays.sum(-1) == BUDGET).all()
        keep = stays.nonzero()[:, -1].view(1, *stays.shape[:2], BUDGET)
        batch.evict(keep)
        held = positions.gather(-1, keep[0])
        assert held.tolist() == episode.held(index)
        result = batch.write()
        assert float(result.reward) == pytest.approx(step.reward, rel=1e-4, abs=1e-7)
        assert int(batch.texts.length) == step.length
    assert not batch.active.any()
    n = len(episode.tokens)
    assert batch.texts.tokens[0, :n].tolist() == episode.tokens.ids
    assert batch.texts.surprisal[0, :n].tolist() == pytest.approx(episode.tokens.surprisal, rel=1e-4, abs=1e-6)
    assert batch.texts.surprisal_full[0, :n].tolist() == pytest.approx(
        episode.tokens.surprisal_full, rel=1e-4, abs=1e-6
    )
    assert batch.record(0).tokens_sha256 == episode.tokens_sha256


def test_every_head_holds_exactly_the_budget_after_each_eviction(
    played: Played,
) -> None:
    episode = played["rkv", "generate"]
    assert len(episode.steps) > 3
    for index, step in enumerate(episode.steps):
        held = episode.held(index)
        assert [[len(set(head)) for head in layer] for layer in held] == [[BUDGET] * 2] * 2
        assert all(max(head) < step.length - EVERY for layer in held for head in layer)


def test_the_full_cache_evicts_nothing(played: Played) -> None:
    episode = played["full", "generate"]
    assert all(step.evicted == [] and step.missed_attention == 0 for step in episode.steps)
    assert episode.tokens.surprisal == episode.tokens.surprisal_full
    assert episode.held(1)[0][0] == list(range(BUDGET + 2 * EVERY))


def test_evicting_changes_surprisals_and_the_shadow_sees_it(played: Played) -> None:
    episode = played["random", "replay"]
    first = BUDGET + EVERY
    assert episode.tokens.surprisal[:first] == episode.tokens.surprisal_full[:first]
    assert episode.tokens.surprisal[first + 1 :] != episode.tokens.surprisal_full[first + 1 :]
    assert any(step.missed_attention > 0 for step in episode.steps)


def test_pieces_are_the_text(random_model: Path, played: Played) -> None:
    episode, llm = played["random", "generate"], frozen(settings(random_model, "generate"))
    assert "".join(episode.tokens.text) == llm.tokenizer.decode(episode.tokens.ids)
    assert episode.prompt in "".join(episode.tokens.text[: episode.n_prompt])


def test_a_character_of_several_tokens_goes_to_its_last() -> None:
    data = "a\u00e9\u6f22 \U0001f600!".encode()
    pieces = token_pieces(list(data), lambda part: bytes(part).decode(errors="replace"))
    assert pieces == ["a", "", "\u00e9", "", "", "\u6f22", " ", "", "", "", "\U0001f600", "!"]
    broken = token_pieces([0xF0] * 40, lambda part: bytes(part).decode(errors="replace"))
    assert "".join(broken) == "\ufffd" * 40


def test_an_agent_that_raises_leaves_no_recording(random_model: Path) -> None:
    with pytest.raises(RecordingError, match="'raises' failed at decision 2: LookupError: no table"):
        record(random_model, Raises())


def test_a_file_gives_back_what_was_saved(played: Played, tmp_path: Path) -> None:
    episode, path = played["rkv", "replay"], tmp_path / "new" / "one.json.gz"
    save_recording(episode, path)
    assert read_recording(path) == episode
    first = path.read_bytes()
    save_recording(episode, path)
    assert path.read_bytes() == first and [file.name for file in path.parent.iterdir()] == ["one.json.gz"]


def changed(episode: RecordedEpisode, change: Callable[[dict[str, Any]], Any]) -> bytes:
    data = json.loads(episode.model_dump_json())
    change(data)
    return gzip.compress(json.dumps(data).encode())


def twice(data: dict[str, Any]) -> None:
    data["steps"][1]["evicted"][0][0] = data["steps"][0]["evicted"][0][0]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda data: data.update(format=2), "format: Input should be 1"),
        (lambda data: data.update(more=1), "more: Extra inputs are not permitted"),
        (lambda data: data.pop("gold"), "gold: Field required"),
        (lambda data: data["tokens"]["text"].pop(), "columns of different lengths"),
        (lambda data: data["steps"].pop(), "tokens, but the steps account for"),
        (lambda data: data["steps"][1].update(length=3), "steps.1: length=3"),
        (lambda data: data["steps"][1]["evicted"].pop(), r"steps.1: evicted is not \[2\]\[2\]"),
        (lambda data: data["steps"][1]["evicted"][0][0].pop(), "steps.1: layer 0, KV head 0 evicts something else"),
        (twice, "steps.1: layer 0, KV head 0 evicts something else than 8 slots that it held"),
        (lambda data: data["steps"][0]["evicted"][1][1].__setitem__(7, 40), "steps.0: layer 1, KV head 1 evicts"),
        (lambda data: data["steps"][0].update(reward=float("nan")), "steps.0.reward: Input should be a finite number"),
        (lambda data: data.update(correct=2), "correct: Input should be less than or equal to 1"),
        (lambda data: data.update(n_prompt=10**6), "n_prompt=1000000"),
    ],
)
def test_files_that_do_not_add_up_are_refused(
    played: Played,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], Any],
    message: str,
) -> None:
    path = tmp_path / "bad.json.gz"
    path.write_bytes(changed(played["random", "generate"], change))
    with pytest.raises(RecordingError, match=message):
        read_recording(path)


def test_damaged_and_missing_files_are_refused(played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bad.json.gz"
    with pytest.raises(RecordingError, match="does not exist"):
        read_recording(path)
    save_recording(played["random", "generate"], path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"{}", b"", gzip.compress(b"[" * 100_000), gzip.compress(b"\xff\xfe")):
        path.write_bytes(damaged)
        with pytest.raises(RecordingError, match="is no recording"):
            read_recording(path)
    monkeypatch.setattr(recording, "MAX_BYTES", 2**20)
    path.write_bytes(gzip.compress(b" " * 2**24))
    with pytest.raises(RecordingError, match="inflates to more than 1 MiB"):
        read_recording(path)


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Call the program in an empty folder; return (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_info:
            cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(exit_info.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def small(random_model: Path) -> list[str]:
    return ["record", ENV, f"--budget={BUDGET}", f"--set=model={random_model}", "--set=max_new_tokens=72",
            f"--set=evict_every={EVERY}", "--out=rec"]  # fmt: skip


def test_record_writes_a_file_for_each_agent_and_replay_shows_them(run: Run, small: list[str], tmp_path: Path) -> None:
    code, out, err = run(*small, "--agent=random", "--agent=rkv,lam=0.5", "--problem=1")
    assert code == 0
    files = out.split()
    assert files == [f"rec/aime-test-0-1_{name}_budget24_generate_seed0.json.gz" for name in ("random", "rkv-lam=0.5")]
    assert "random: " in err and "evictions" in err
    episode = read_recording(tmp_path / files[1])
    assert "lam=0.5" in episode.agent_source and episode.settings["evict_every"] == EVERY
    code, out, _ = run("replay", *files, "--html=new/page.html")
    assert code == 0 and out.strip() == "new/page.html"
    assert (tmp_path / "new" / "page.html").read_text().startswith("<!doctype html>")


def test_mistakes_of_the_command_line(run: Run, small: list[str], tmp_path: Path) -> None:
    for problem in (0, 1):
        assert run(*small, "--agent=random", f"--problem={problem}")[0] == 0
    one, two = sorted((tmp_path / "rec").iterdir())
    mistakes = [
        (("replay", one, two, "--html=a.html"), "of different problems, 'aime/test/0/0' and 'aime/test/0/1'"),
        (("replay", one, one, one, "--html=a.html"), "3 recordings do not fit side by side"),
        (("replay", "gone.json.gz", "--html=a.html"), "gone.json.gz does not exist"),
        ((*small, "--agent=random", "--problem=-1"), "problem=-1 is not in this env"),
        ((*small, "--agent=random", "--mode=reply"), "mode='reply' is not allowed"),
        ((*small, "--agent=random", "--split=tests"), "split='tests' is not allowed"),
        ((*small, "--agent=randm"), "Did you mean 'random'?"),
    ]
    for arguments, message in mistakes:
        code, _, err = run(*arguments)
        assert code == 2 and message in err, arguments
    assert not (tmp_path / "a.html").exists()
