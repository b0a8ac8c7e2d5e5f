"""Problem sets of the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kv_gym.errors import ConfigError
from kv_gym.problems.formats import Row
from kv_gym.problems.reach import hub_or_stored
from kv_gym.problems.recorded import RecordedSource, survey_rows


@dataclass(frozen=True)
class HubSet:
    """Where a set lies on the hub. Calling it gives its source.

    Attributes:
        name: Of the source.
        repo: Dataset id.
        split: Its split.
        subset: Its configuration, where it has several.
        read: How its rows are fetched; default is the `datasets` package.
    """

    name: str
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

    def __call__(self, traces: bool = False) -> RecordedSource:
        """Read the set from the hub, or from what was downloaded before; `traces` as for `Survey`.

        Raises:
            ConfigError: It cannot be had; says both ways to get it.
        """
        ways = (
            f"problem set {self.name!r} is not stored here and cannot be downloaded. Either connect to the Hugging "
            f"Face hub once ({self.repo}), or give a local file: problems=path/to/{self.name}.jsonl."
        )
        try:
            with hub_or_stored():
                rows = list(self.rows())
        except ImportError as error:
            raise ConfigError(f"{ways} ({error.name} is not installed: pip install kv-gym[hub].)") from error
        except Exception as error:  # datasets, huggingface_hub and their HTTP clients all raise their own kinds
            first = (str(error).splitlines() or [""])[0][:200]
            raise ConfigError(f"{ways} ({type(error).__name__}: {first})") from error
        return RecordedSource(survey_rows(self.name, rows, traces))


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


AIME24 = HubSet("aime24", "HuggingFaceH4/aime_2024", "train")
AIME25 = HubSet("aime25", "math-ai/aime25")
AIME26 = HubSet("aime26", "evalscope/aime26")
MATH500 = HubSet("math500", "HuggingFaceH4/MATH-500")
GSM8K = HubSet("gsm8k", "openai/gsm8k", "test", "main")
TRACES = HubSet("traces", "uzaymacar/math-rollouts", read=math_rollouts)
