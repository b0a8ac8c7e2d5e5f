"""Inputs that somebody may give by mistake or on purpose, by kind; `python tests/hostile.py` prints the table.

Each is either refused with one of kv-gym's own errors, or taken, and then what it gives must be right. Anything else
that is raised is a crash.
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

import kv_gym  # noqa: F401
from kv_gym.agents import load_agent
from kv_gym.bench.plan import Bench
from kv_gym.bench.rows import EpisodeRow, RunRow, read_rows
from kv_gym.config import EnvConfig, make_config
from kv_gym.envs.eviction_env import KVEvictEnv
from kv_gym.errors import KVGymError
from kv_gym.problems.recorded import read_file
from kv_gym.show.recording import read_recording

ENV = "KVEvict-AIME-v0"
REFUSED = (KVGymError, gymnasium.error.Error)
DOCS = Path(__file__).parents[1] / "docs" / "robustness.md"


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        kind: Heads its line of the table.
        name: What is given.
        give: Gives it.
        right: Whether what came back is right; None where it must be refused.
    """

    kind: str
    name: str
    give: Callable[[], Any]
    right: Callable[[Any], bool] | None = None


def outcome(case: Case) -> str:
    """`refused`, `right`, `wrong` or `crashed: ...`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = case.give()
    except REFUSED as error:
        return "refused" if case.right is None and str(error).strip() else f"wrong: {error}"
    except Exception as error:
        return f"crashed: {type(error).__name__}: {error}"
    return "right" if case.right is not None and case.right(found) else "wrong"


# --- Settings ----------------------------------------------------------------------------------------------------

ODD = [
    None,
    True,
    b"96",
    "96",
    "",
    [],
    {},
    (1, 2),
    1.5,
    -1,
    -0.5,
    *map(float, ("nan", "inf")),
    10**12,
    1j,
    object(),
    np.ones(2),
]
GOOD: dict[str, list[Any]] = {
    "budget": [96, np.int64(96)],
    "temperature": [0.5, 1, np.float32(0.5)],
    "mode": ["replay"],
    "protect_prompt": [True, np.bool_(False)],
    "loss_cap": [None, 2],
    "problems": [["aime", "code"], "aime"],
    "granularity": ["head"],
}
MAY_BE: dict[str, Callable[[Any], bool]] = {
    "model": lambda v: isinstance(v, str),
    "device": lambda v: isinstance(v, str),
    "dtype": lambda v: isinstance(v, str),
    "revision": lambda v: v is None or isinstance(v, str),
    "chat_template_kwargs": lambda v: v == {} and isinstance(v, dict),
    "system_prompt": lambda v: isinstance(v, str),
    "instruction": lambda v: v is None or isinstance(v, str),
    "problems": lambda v: v == "96",
    "granularity": lambda v: v is None,
    "n_recent": lambda v: v is None,
    "n_sink": lambda v: False,
    "w_correct": lambda v: not isinstance(v, bool) and isinstance(v, int | float) and abs(v) < 1e300,
}
"""Odd values that some settings do take: names that nothing has looked up yet, texts, rewards of any sign and size."""


def taken(name: str, value: Any) -> bool:
    """Whether a setting may have an odd value."""
    if isinstance(value, np.ndarray):
        return False
    if name in MAY_BE:
        return MAY_BE[name](value)
    field = EnvConfig.model_fields[name]
    kinds = str(field.annotation)
    limits = {type(limit).__name__: limit for limit in field.metadata}
    if value is None:
        return "None" in kinds
    if isinstance(value, bool):
        return "bool" in kinds
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf") and value == value:
        number = ("int" in kinds and isinstance(value, int)) or "float" in kinds
        low, high = limits.get("Ge"), limits.get("Le")
        above, below = limits.get("Gt"), limits.get("Lt")
        return (
            number and (low is None or value >= low.ge) and (high is None or value <= high.le)
            and (above is None or value > above.gt) and (below is None or value < below.lt)
        )  # fmt: skip
    return False


def settings() -> Iterator[Case]:
    for name, value in product(EnvConfig.model_fields, ODD):
        same = (lambda n, v: lambda found: getattr(found, n) == v)(name, value)
        give = (lambda n, v: lambda: make_config(ENV, **{n: v}))(name, value)
        yield Case("settings", f"{name}={value!r:.30}", give, same if taken(name, value) else None)
    for name, values in GOOD.items():
        for value in values:
            give = (lambda n, v: lambda: make_config(ENV, **{n: v}))(name, value)
            want = (lambda n, v: lambda found: getattr(found, n) == (tuple(v) if isinstance(v, list) else v))(
                name, value
            )
            yield Case("settings", f"{name}={value!r}", give, want)


# --- Environments ------------------------------------------------------------------------------------------------


def playing(**options: Any) -> KVEvictEnv:
    env = KVEvictEnv(ENV, budget=24, evict_every=8, max_new_tokens=72, shadow=False, **options)
    env.reset(seed=0)
    return env


def environments() -> Iterator[Case]:
    for value in ("4", 0, -1, True, 1.5, None, [2], 10**9, float("nan")):
        give = (lambda v: lambda: gymnasium.make_vec(ENV, num_envs=v, vectorization_mode="vector_entry_point"))(value)
        yield Case("environments", f"num_envs={value!r}", give)
    for value in (5, "problem", [("problem", 1)], {"problm": 1}, {"problem": -1}, {"problem": 1.5}, {"problem": True},
                  {"problem": 10**9}, {"problem": "1"}, {"reset_mask": [True]}):  # fmt: skip
        yield Case("environments", f"reset(options={value!r})", (lambda v: lambda: playing().reset(options=v))(value))
    for value in ("x", 1.5, -1, [1]):
        yield Case("environments", f"reset(seed={value!r})", (lambda v: lambda: playing().reset(seed=v))(value))
    for mode in ("scores", "mask", "slot"):
        env = playing(action=mode, **({"evict_every": 1} if mode == "slot" else {})) if mode != "slot" else None
        for name, value in odd_actions(mode):
            give = (lambda e, m, v: lambda: (e or slot_env()).step(v))(env, mode, value)
            yield Case("actions", f"{mode}: {name}", give)


def slot_env() -> KVEvictEnv:
    env = KVEvictEnv(ENV, budget=24, action="slot", max_new_tokens=72, shadow=False)
    env.reset(seed=0)
    return env


def odd_actions(mode: str) -> Iterator[tuple[str, Any]]:
    shape = (4, 2, 32)
    yield from {
        "None": None,
        "a number too many": np.zeros((4, 2, 33)),
        "flat": np.zeros(256),
        "text": "keep",
        "a dict": {"a": 1},
        "ragged": [[1, 2], [3]],
        "objects": np.full(shape, None),
        "complex": np.zeros(shape, complex),
        "bytes": b"12",
        "bf16": torch.zeros(shape, dtype=torch.bfloat16),
        "grad": torch.zeros(shape, requires_grad=True),
        "a set": {1},
        "empty": [],
        "dates": np.zeros(shape, "datetime64[s]"),
    }.items()
    if mode == "scores":
        yield "nan", np.full(shape, np.nan, np.float32)
    if mode == "mask":
        yield "twos", np.full(shape, 2)
        yield "halves", np.full(shape, 0.5)
    if mode == "slot":
        yield from {"too large": 25, "negative": -1, "half": 0.5, "two": [1, 2]}.items()


# --- Agents ------------------------------------------------------------------------------------------------------


def agents() -> Iterator[Case]:
    for name, option, values in (
        ("rkv", "lam", ["abc", None, [1], {"a": 1}, True, float("nan"), float("inf"), "0.5"]),
        ("rkv", "n_obs", ["8", 1.5, 0, -1, None, True]),
        ("rkv", "kernel", [2, 0, -3, "7", 2.5]),
        ("streaming", "n_sink", ["4", 1.5, None, [4]]),
        ("lazy-eviction", "alpha", ["x", float("-inf"), [1]]),
        ("foresight", "checkpoint", ["nowhere", 3, None, ["foresight"], "../../etc/passwd", "\0"]),
        ("h2o", "n", [1]), ("rkv", "lamm", [0.1]), ("random", "seed", [1]),
    ):  # fmt: skip
        for value in values:
            give = (lambda a, o, v: lambda: load_agent(a, **{o: v}))(name, option, value)
            yield Case("agents", f"{name},{option}={value!r}", give)
    for name in ("rkvv", "", "nowhere.py:A", "nowhere.py", ":", "rkv:RKV", "\0", "a" * 5000, "../x.py:Y"):
        yield Case("agents", f"name {name[:20]!r}", (lambda n: lambda: load_agent(n))(name))
    for value in (0, -1, 1.5):
        yield Case(
            "agents", f"problems={value!r}", (lambda v: lambda: Bench(ENV, [load_agent("rkv")], problems=v))(value)
        )
    yield Case("agents", "rkv,lam=0.5", lambda: load_agent("rkv", lam=0.5), lambda agent: agent.lam == 0.5)
    yield Case("agents", "rkv,lam=1", lambda: load_agent("rkv", lam=1), lambda agent: agent.lam == 1)


# --- Files -------------------------------------------------------------------------------------------------------


def run_line() -> dict[str, Any]:
    return RunRow(
        started="2026-01-01T00:00:00+00:00", command="kv-gym bench", versions={}, git=None, hardware={}, threads=1,
        width=1, model={}, settings={}, settings_sha256="s", plan={}, left_out={},
    ).signed().model_dump(mode="json")  # fmt: skip


def episode_line(**changes: Any) -> dict[str, Any]:
    values = {
        "run_id": run_line()["run_id"],
        "env_id": "E-v0",
        "mode": "replay",
        "split": "test",
        "agent": "a",
        "budget": 64,
        "agent_source": "m:A",
        "agent_sha256": "h",
        "uses_hindsight": False,
        "evicts": True,
        "evict_every": 8,
        "seed": 0,
        "problem": "p",
        "family": "f",
        "correct": 1.0,
        "correct_full": 1.0,
        "reference_hash": "r",
        "problem_sha256": "q",
        "model": "tiny",
        "model_fingerprint": "w",
        "settings_sha256": "s",
        "loss": 0.5,
    }
    return EpisodeRow.model_validate(values).model_dump(mode="json") | changes


def rows(folder: Path) -> Iterator[Case]:
    path = folder / "rows.jsonl"

    def reading(*lines: bytes) -> Callable[[], Any]:
        def read() -> Any:
            path.write_bytes(b"".join(lines))
            return read_rows(path)

        return read

    def line(value: Any) -> bytes:
        return json.dumps(value).encode() + b"\n"

    head = line(run_line())
    for change in (
        {"correct": 7.5},
        {"correct": -1},
        {"correct": "yes"},
        {"n_tokens": -96},
        {"n_tokens": 1.5},
        {"n_steps": -1},
        {"seconds": -1},
        {"seconds": "x"},
        {"kv_bytes_peak": -1},
        {"budget": 0},
        {"evict_every": 0},
        {"seed": -1},
        {"mode": "both"},
        {"loss": "much"},
        {"loss": [1]},
        {"speed": 1},
        {"schema_version": 2},
        {"schema_version": 99},
        {"schema_version": "1"},
        {"kind": "other"},
        {"run_id": "gone"},
        {"run_id": 3},
        {"agent": None},
        {"problem": 3},
        {"correct_full": None},
        {"correct_full": 2},
        {"evicts": "maybe"},
        {"__class__": 1},
        {"loss_full": {"a": 1}},
    ):
        yield Case("rows", f"episode {change}", reading(head, line(episode_line(**change))))
    for change in ({"threads": 9}, {"command": "other"}, {"run_id": "0" * 16}, {"left_out": 3}, {"versions": []}):
        yield Case("rows", f"run {change}", reading(line(run_line() | change)))
    for name, text in {
        "no JSON": b"{\n",
        "a list": b"[1]\n",
        "a number": b"1\n",
        "NaN": head + line(episode_line()).replace(b"0.5", b"NaN"),
        "huge": head + line(episode_line()).replace(b"0.5", b"1e999"),
        "binary": b"\xff\xfe\n",
        "zeros": b"\0\0\n",
        "deep": b"[" * 10_000 + b"\n",
    }.items():
        yield Case("rows", name, reading(text))
    yield Case("rows", "a torn line", reading(head, line(episode_line())[:-9]), lambda found: not found.episodes)
    yield Case("rows", "nothing", reading(b""), lambda found: not found.episodes)
    yield Case(
        "rows", "twice the same", reading(head, line(episode_line()) * 2), lambda found: len(found.episodes) == 1
    )
    yield Case("rows", "no file", lambda: read_rows(folder / "gone.jsonl"))
    (folder / "bad.jsonl.gz").write_bytes(b"no gzip")
    yield Case("rows", "no gzip", lambda: read_rows(folder / "bad.jsonl.gz"))
    (folder / "half.jsonl.gz").write_bytes(gzip.compress(head * 9)[:-9])
    yield Case("rows", "half a gzip", lambda: read_rows(folder / "half.jsonl.gz"))


def recordings(folder: Path) -> Iterator[Case]:
    for name, data in {
        "no gzip": b"x",
        "empty": b"",
        "no JSON": gzip.compress(b"{"),
        "a list": gzip.compress(b"[]"),
        "keys": gzip.compress(b'{"format": 1}'),
        "newer": gzip.compress(b'{"format": 2}'),
        "half": gzip.compress(b"{}" * 99)[:20],
        "binary": gzip.compress(bytes(range(256))),
        "deep": gzip.compress(b"[" * 100_000),
    }.items():
        path = folder / f"{name}.json.gz"
        path.write_bytes(data)
        yield Case("recordings", name, (lambda p: lambda: read_recording(p))(path))
    yield Case("recordings", "no file", lambda: read_recording(folder / "gone.json.gz"))
    yield Case("recordings", "a folder", lambda: read_recording(folder))


def problems(folder: Path) -> Iterator[Case]:
    for i, (name, text) in enumerate(
        {
            "no JSON": "{",
            "a list": "[1]",
            "a number": "3",
            "no question": '{"answer": "1"}',
            "no answer": '{"question": "q"}',
            "empty": "",
            "blank lines": "\n\n",
            "twice": '{"id": 1, "question": "q", "answer": "1"}\n' * 2,
            "a long answer": json.dumps({"question": "q", "answer": "1" * 5000}),
            "deep": "[" * 50_000,
            "huge number": '{"question": "q", "answer": ' + "1" * 6000 + "}",
        }.items()
    ):
        path = folder / f"set{i}.jsonl"
        path.write_text(text)
        yield Case("problems", name, (lambda p: lambda: read_file(p))(path))
    binary = folder / "binary.jsonl"
    binary.write_bytes(b'{"question": "\xff", "answer": "1"}')
    yield Case("problems", "no UTF-8", lambda: read_file(binary))
    yield Case("problems", "no file", lambda: read_file(folder / "gone.jsonl"))


def checkpoints(folder: Path) -> Iterator[Case]:
    from kv_agents.learned import checkpoints as saved

    weights = saved.find("ppo")
    text = json.loads(weights.with_suffix(".json").read_text())
    scorer = text["scorer"]
    changes: dict[str, Any] = {
        "no columns": {"scorer": {k: v for k, v in scorer.items() if k != "columns"}},
        "columns null": {"scorer": scorer | {"columns": None}},
        "columns 3": {"scorer": scorer | {"columns": 3}},
        "another input": {"scorer": scorer | {"inputs": ["keys"]}},
        "unknown input": {"scorer": scorer | {"inputs": ["nothing"], "columns": {"nothing": ["a@1"]}}},
        "inputs nested": {"scorer": scorer | {"inputs": [["features"]]}},
        "no such column": {"scorer": scorer | {"columns": {"features": ["nothing@1"]}}},
        "a version to come": {"scorer": scorer | {"columns": {"features": ["age@9"]}}},
        "hidden 5": {"scorer": scorer | {"hidden": 5}},
        "hidden -1": {"scorer": scorer | {"hidden": -1}},
        "n_inputs text": {"scorer": scorer | {"n_inputs": "many"}},
        "format 9": {"format": 9},
        "method": {"method": "magic"},
        "extra key": {"colour": "red"},
        "curve": {"curve": 3},
    }
    for i, (name, change) in enumerate(changes.items()):
        path = folder / f"c{i}.safetensors"
        path.write_bytes(weights.read_bytes())
        path.with_suffix(".json").write_text(json.dumps(text | change))
        yield Case("checkpoints", name, (lambda p: lambda: saved.load(p))(path))
    for name, data in {
        "empty": b"",
        "half": weights.read_bytes()[:999],
        "text": b"hello",
        "zeros": b"\0" * 999,
    }.items():
        path = folder / f"w-{name}.safetensors"
        path.write_bytes(data)
        path.with_suffix(".json").write_text(json.dumps(text))
        yield Case("checkpoints", f"weights {name}", (lambda p: lambda: saved.load(p))(path))
    for name, data in {"no JSON": b"{", "a list": b"[]", "binary": b"\xff\xfe", "null": b"null"}.items():
        path = folder / f"j-{name}.safetensors"
        path.write_bytes(weights.read_bytes())
        path.with_suffix(".json").write_bytes(data)
        yield Case("checkpoints", f"JSON {name}", (lambda p: lambda: saved.load(p))(path))


@contextmanager
def all_cases() -> Iterator[list[Case]]:
    """Every case, with the files that it needs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield [
            *settings(), *environments(), *agents(), *rows(folder), *recordings(folder), *problems(folder),
            *checkpoints(folder),
        ]  # fmt: skip


def table(found: list[tuple[Case, str]]) -> str:
    """The table of the docs."""
    kinds = list(dict.fromkeys(case.kind for case, _ in found))
    lines = ["| kind | inputs | refused | taken, and right | wrong | crashed |", "|---|---:|---:|---:|---:|---:|"]
    for kind in [*kinds, "all"]:
        count = Counter(result.partition(":")[0] for case, result in found if kind in (case.kind, "all"))
        numbers = [count.total(), *(count[name] for name in ("refused", "right", "wrong", "crashed"))]
        lines.append(f"| {kind} | " + " | ".join(map(str, numbers)) + " |")
    return "\n".join(lines)


def main() -> None:
    with all_cases() as cases:
        found = [(case, outcome(case)) for case in cases]
    for case, result in found:
        if result not in ("refused", "right"):
            print(f"{case.kind}: {case.name}: {result[:200]}", file=sys.stderr)
    print(table(found))


if __name__ == "__main__":
    main()
