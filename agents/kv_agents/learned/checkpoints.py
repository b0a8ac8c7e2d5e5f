"""Trained scorers on disk: NAME.safetensors with the weights, NAME.json with what they were trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes

from kv_agents.learned.inputs import BEFORE_ROPE, missing_columns, width
from kv_agents.learned.scorer import Scorer, ScorerConfig
from kv_gym.errors import KVGymError, first_complaint
from kv_gym.files import write_whole
from kv_gym.llm.fingerprint import same_model
from kv_gym.llm.frozen import FrozenLLM

SHIPPED = Path(__file__).parents[1] / "checkpoints"

FIRST_COLUMNS: dict[str, tuple[str, ...]] = {
    "keys": ("key@1",),
    "unrotated_keys": ("unrotated_key@1",),
    "values": ("value@1",),
    "age": ("age@1",),
    "statistics": (
        "window_max@1", "window_min@1", "window_mean@1", "newest_sixteenth@1", "newest_eighth@1",
        "newest_quarter@1", "total@1", "decayed@1",
    ),
    "attention": (
        "window_max_mean@1", "window_min_mean@1", "window_mean_mean@1", "newest_sixteenth_mean@1",
        "newest_eighth_mean@1", "newest_quarter_mean@1", "total_mean@1", "decayed_mean@1", "window_max_max@1",
        "window_min_max@1", "window_mean_max@1", "newest_sixteenth_max@1", "newest_eighth_max@1",
        "newest_quarter_max@1", "total_max@1", "decayed_max@1",
    ),
    "traits": (
        "since_attended@1", "longest_gap@1", "age@1", "position@1", "in_prompt@1", "key_norm@1", "value_norm@1",
        "surprisal@1", "entropy@1",
    ),
    "relations": ("nearest_later_key@1", "nearest_later_value@1", "since_stated_again@1"),
    "features": (
        "attention_peak_mean@1", "attention_peak_max@1", "attention_chunk_mean@1", "attention_chunk_max@1",
        "attention_last_mean@1", "attention_last_max@1", "attention_last8_mean@1", "attention_last8_max@1",
        "attention_last16_mean@1", "attention_last16_max@1", "attention_last32_mean@1",
        "attention_last32_max@1", "attention_total_mean@1", "attention_total_max@1", "attention_decayed_mean@1",
        "attention_decayed_max@1", "since_attended@1", "longest_gap@1", "age@1", "position@1", "in_prompt@1",
        "key_norm@1", "value_norm@1", "newer_twin@1", "surprisal@1", "entropy@1",
    ),
    "context": (
        "progress@1", "budget@1", "evict_every@1", "keep_ratio@1", "prompt_share@1", "surprisal@1", "entropy@1",
    ),
}  # fmt: skip
"""What checkpoints of the first format, which did not name columns, read of each input. Never changes."""


class CheckpointError(KVGymError, ValueError):
    """A checkpoint is missing, damaged, or made for another model."""


class CheckpointInfo(BaseModel):
    """What the JSON beside the weights says.

    Attributes:
        method: How it was trained: `distill`, `grpo`, `ppo` or `kvp`.
        scorer: Form of the scorer (`ScorerConfig`), with the columns that it reads.
        model, model_fingerprint: The frozen LLM it was trained on.
        env_id: The environment.
        families: Problem families it saw; empty means all.
        budgets, evict_every: What it was trained at, slots.
        seed: Of the training.
        start: Checkpoint that training began from, "" for none.
        command: What made it.
        recipe: Every knob of the training.
        curve: Training and validation numbers, in order.
        weights_sha256: Hash of the file of weights, which ties the two files together; "" in older ones.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[2] = 2
    method: Literal["distill", "grpo", "ppo", "kvp"]
    scorer: ScorerConfig
    model: str
    model_fingerprint: str
    env_id: str
    families: tuple[str, ...] = ()
    budgets: tuple[int, ...]
    evict_every: int
    seed: int
    start: str = ""
    command: str
    recipe: dict[str, Any]
    curve: list[dict[str, Any]]
    weights_sha256: str = ""

    def check_model(self, llm: FrozenLLM, name: str) -> None:
        """Refuse a model that the scorer was not made for; one that all heads share fits any model.

        Raises:
            CheckpointError: It is another model, or the columns do not come to what the weights take.
            UnsupportedModelError: An input undoes RoPE, and this model's cannot be undone.
        """
        if not self.scorer.shared and not same_model(llm.fingerprint, self.model_fingerprint):
            raise CheckpointError(
                f"checkpoint {name!r} was trained on model {self.model!r} (fingerprint {self.model_fingerprint[:12]}), "
                f"this one is {llm.name!r} ({llm.fingerprint[:12]}): its MLPs belong to the heads of the other. Train "
                "one for this model (`kv-gym train distill`), or use 'transfer', which fits any."
            )
        read = width(self.scorer.columns, llm.shape)
        if read != self.scorer.n_inputs:
            raise CheckpointError(
                f"checkpoint {name!r} has weights for {self.scorer.n_inputs} numbers a slot, but the columns that it "
                f"names come to {read} on model {llm.name!r}. Copy its two files again."
            )
        if BEFORE_ROPE & set(self.scorer.inputs):
            llm.check_rotary()


def find(name_or_path: str) -> Path:
    """Return the path of the weights.

    Raises:
        CheckpointError: There is none; says which are shipped.
    """
    for path in (Path(name_or_path), SHIPPED / f"{name_or_path}.safetensors"):
        if path.suffix == ".safetensors" and path.is_file():
            return path
    raise CheckpointError(
        f"checkpoint {name_or_path!r} is neither a .safetensors file nor shipped. Shipped: {', '.join(shipped())}. "
        "Train one with `kv-gym train`."
    )


def shipped() -> list[str]:
    """Names of the checkpoints that come with the package."""
    return sorted(path.relative_to(SHIPPED).with_suffix("").as_posix() for path in SHIPPED.rglob("*.safetensors"))


def read_info(path: Path) -> CheckpointInfo:
    """Read the JSON beside the weights at `path`.

    Raises:
        CheckpointError: It is missing or not of this format.
    """
    config = path.with_suffix(".json")
    try:
        return CheckpointInfo.model_validate(_upgraded(config.read_bytes()))
    except FileNotFoundError as error:
        raise CheckpointError(f"{config} is missing: it says what {path.name} is. Copy both files.") from error
    except ValidationError as error:
        raise CheckpointError(f"{config} is not a checkpoint's description: {first_complaint(error)}.") from error
    except ValueError as error:
        raise CheckpointError(f"{config} is not a checkpoint's description: {error}.") from error


def _upgraded(data: bytes) -> Any:
    """A description of this format; the first one did not name columns.

    Raises:
        ValidationError: It is no JSON.
        ValueError: It does not name columns.
    """
    found = TypeAdapter[Any](Any).validate_json(data)
    scorer = found.get("scorer") if isinstance(found, dict) else None
    if not isinstance(scorer, dict):
        return found  # which will be refused
    if found.get("format") == 1:
        inputs = scorer.get("inputs")
        names = [name for name in inputs if isinstance(name, str)] if isinstance(inputs, list) else []
        columns = {name: FIRST_COLUMNS[name] for name in names if name in FIRST_COLUMNS}
        return found | {"format": 2, "scorer": scorer | {"columns": columns}}
    if not scorer.get("columns"):
        raise ValueError("scorer.columns does not name the columns of every input")
    return found


def load(path: Path) -> tuple[Scorer, CheckpointInfo]:
    """Load a scorer.

    Raises:
        CheckpointError: A file is missing, damaged, or does not fit the other.
    """
    info = read_info(path)
    missing = missing_columns(info.scorer.columns)
    if missing:
        raise CheckpointError(
            f"checkpoint {path.stem!r} was trained on columns that are not computed: {', '.join(missing)}. Train it "
            "again (`kv-gym train`), or use the version of kv-gym that made it."
        )
    scorer = Scorer(info.scorer)
    try:
        weights = path.read_bytes()
        if info.weights_sha256 not in ("", _sha256(weights)):
            raise CheckpointError(
                f"{path} is not the file of weights that {path.stem}.json was written with (SHA-256 "
                f"{info.weights_sha256[:12]}): it is damaged, or one of the two is of another training. Copy both, "
                "or train again."
            )
        scorer.load_state_dict(from_bytes(weights))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise CheckpointError(f"{path} does not hold the weights that its JSON describes: {error}") from error
    return scorer.requires_grad_(False).eval(), info


def save(scorer: Scorer, info: CheckpointInfo, path: Path) -> None:
    """Write both files, each in one piece, the weights last."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in scorer.state_dict().items()}
    weights = to_bytes(tensors)
    info = info.model_copy(update={"weights_sha256": _sha256(weights)})
    write_whole(path.with_suffix(".json"), (info.model_dump_json(indent=1) + "\n").encode())
    write_whole(path, weights)


def digest(path: Path) -> str:
    """First 16 hex digits of the hash of the weights."""
    return _sha256(path.read_bytes())[:16]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def describe(info: CheckpointInfo) -> str:
    """One line about what a scorer was trained on."""
    return (
        f"{info.method} on {info.env_id} ({_listed(info.families) or 'all families'}), model {info.model}, "
        f"budgets {_listed(info.budgets)}, seed {info.seed}" + (f", from {info.start}" if info.start else "")
    )


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
