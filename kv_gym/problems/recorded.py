"""Problem sets that somebody else wrote: from the Hugging Face hub, or from a local `.jsonl` of the same fields."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kv_gym.errors import ConfigError
from kv_gym.problems.base import Problem
from kv_gym.problems.grading import MAX_ANSWER_CHARS

INSTRUCTION = "\n\nPlease reason step by step, and put your final answer within \\boxed{}."
FINAL_MARK = "####"  # GSM8K writes its answer behind this

Row = Mapping[str, Any]

# What a field may be called, first match wins.
QUESTION = ("problem", "question", "prompt")
ANSWER = ("answer", "gt_answer", "final_answer")
NAME = ("id", "unique_id", "task_id", "problem_idx")
FAMILY = ("subject", "type", "contest", "level")


@dataclass(frozen=True)
class HubSet:
    """Where a set lies on the Hugging Face hub.

    Attributes:
        repo: Dataset id.
        split: Its split.
        subset: Its configuration, where it has several.
        read: How its rows are fetched; default is the `datasets` package.
    """

    repo: str
    split: str = "test"
    subset: str | None = None
    read: Callable[[HubSet], Iterable[Row]] | None = None

    def rows(self) -> Iterator[Row]:
        """Download the rows, or read them from the hub's own cache."""
        if self.read is not None:
            yield from self.read(self)
            return
        from datasets import load_dataset

        yield from load_dataset(self.repo, self.subset, split=self.split)


class RecordedSource:
    """Problems from rows. All of them belong to the test split, unless a row has a field `split`.

    Args:
        name: Starts the problems' ids.
        rows: Each with a question and an answer, or a `problem`, a recorded `trace` and the `answer` it comes to.
    """

    def __init__(self, name: str, rows: Iterable[Row]) -> None:
        self.name = name
        self._splits: dict[str, list[Problem]] = {}
        for number, row in enumerate(rows):
            split = str(row.get("split", "test"))
            self._splits.setdefault(split, []).append(read_row(name, number, row))
        ids = [problem.id for problems in self._splits.values() for problem in problems]
        if len(set(ids)) < len(ids):
            twice = next(name for name in ids if ids.count(name) > 1)
            raise ConfigError(f"problem set {name!r} has two problems {twice!r}. Give each row an id of its own.")
        every = [problem for problems in self._splits.values() for problem in problems]
        if not every:
            raise ConfigError(f"problem set {name!r} has no rows.")
        self.families = tuple(sorted({problem.family for problem in every}))

    def size(self, split: str) -> int:
        """Number of problems of a split.

        Raises:
            ConfigError: The set has no such split.
        """
        if split not in self._splits:
            raise ConfigError(
                f"problem set {self.name!r} has no split {split!r}, only {', '.join(sorted(self._splits))}. Choose one "
                'of those, or give its rows a field "split".'
            )
        return len(self._splits[split])

    def problem(self, split: str, seed: int, index: int) -> Problem:
        """Return problem `index` of `split`; there is one set, so `seed` changes nothing."""
        size = self.size(split)
        if not 0 <= index < size:
            raise ConfigError(f"problem {index} of {self.name!r}: its {split} split has 0 to {size - 1}.")
        return self._splits[split][index]


def read_row(source: str, number: int, row: Row) -> Problem:
    """Make a problem of a row.

    Raises:
        ConfigError: It has no question or no answer.
    """
    name = f"{source}/{_first(row, NAME) or number}"
    question, answer = _first(row, QUESTION), _first(row, ANSWER)
    if not question or not answer:
        raise ConfigError(
            f"problem {name}: a row needs a question ({', '.join(QUESTION)}) and an answer ({', '.join(ANSWER)}); this "
            f"one has {', '.join(map(str, row)) or 'nothing'}."
        )
    answer = answer.rpartition(FINAL_MARK)[2].replace(",", "").strip() if FINAL_MARK in answer else answer.strip()
    if not 0 < len(answer) <= MAX_ANSWER_CHARS:
        raise ConfigError(f"problem {name}: an answer of {len(answer)} characters; 1 to {MAX_ANSWER_CHARS} are graded.")
    trace = str(row.get("trace") or "")
    if trace:
        right = row.get("is_correct")
        family = {"True": "correct", "False": "incorrect"}.get(str(right), "all")
    else:
        family = _first(row, FAMILY) or "all"
    return Problem(name, family, question + INSTRUCTION, answer, trace=trace)


def _first(row: Row, names: Iterable[str]) -> str:
    """The first of these fields that is there, as text; "" if none is."""
    return next((str(row[name]) for name in names if row.get(name) not in (None, "")), "")


def read_file(path: Path) -> RecordedSource:
    """Read a local set, one JSON object a line.

    Raises:
        ConfigError: There is no such file, or a line is not a JSON object.
    """
    if not path.is_file():
        raise ConfigError(f"problems={str(path)!r}: there is no such file. Give a .jsonl with a problem a line.")
    rows: list[Row] = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        try:
            row = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError) as error:  # JSON, UTF-8, huge numbers, deep nesting
            raise ConfigError(f"{path}, line {number} is not JSON: {str(error)[:200]}.") from error
        if row is not None and not isinstance(row, dict):
            raise ConfigError(f"{path}, line {number} is not a JSON object.")
        if row is not None:
            rows.append(row)
    return RecordedSource(path.stem, rows)


def read_hub(name: str) -> RecordedSource:
    """Read a set from the hub, or from what was downloaded before.

    Raises:
        ConfigError: It cannot be had; says both ways to get it.
    """
    hub = HUB_SETS[name]
    try:
        rows = list(hub.rows())
    except ImportError as error:
        raise ConfigError(f"{_not_there(name)} ({error.name} is not installed: pip install kv-gym[hub].)") from error
    except Exception as error:  # datasets, huggingface_hub and their HTTP clients all raise their own kinds
        first = (str(error).splitlines() or [""])[0][:200]
        raise ConfigError(f"{_not_there(name)} ({type(error).__name__}: {first})") from error
    return RecordedSource(name, rows)


def _not_there(name: str) -> str:
    return (
        f"problem set {name!r} is not stored here and cannot be downloaded. Either connect to the Hugging Face hub "
        f"once ({HUB_SETS[name].repo}), or give a local file of the same fields: problems=path/to/{name}.jsonl."
    )


def math_rollouts(hub: HubSet) -> Iterator[Row]:
    """Chains of thought of R1-Distill-Qwen-14B on MATH, correct and incorrect: a folder for each problem."""
    from huggingface_hub import HfApi, hf_hub_download

    folder = "deepseek-r1-distill-qwen-14b/temperature_0.6_top_p_0.95/"
    for path in sorted(HfApi().list_repo_files(hub.repo, repo_type="dataset")):
        if not path.startswith(folder) or not path.endswith("_base_solution/" + path.split("/")[-2] + "/problem.json"):
            continue
        parts = [path, path.replace("problem.json", "base_solution.json")]
        problem, solution = (
            json.loads(Path(hf_hub_download(hub.repo, part, repo_type="dataset")).read_text(encoding="utf-8"))
            for part in parts
        )
        yield {
            "id": "/".join(path.split("/")[2:4]), "problem": problem["problem"], "answer": solution["answer"],
            "trace": solution["solution"], "is_correct": solution["is_correct"],
        }  # fmt: skip


HUB_SETS = {
    "aime24": HubSet("HuggingFaceH4/aime_2024", "train"),
    "aime25": HubSet("math-ai/aime25"),
    "aime26": HubSet("evalscope/aime26"),
    "math500": HubSet("HuggingFaceH4/MATH-500"),
    "gsm8k": HubSet("openai/gsm8k", "test", "main"),
    "traces": HubSet("uzaymacar/math-rollouts", read=math_rollouts),
}
