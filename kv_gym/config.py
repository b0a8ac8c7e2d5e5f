"""Every knob of an environment, validated; read from `envs_configs/<env id>.yaml` and overridden by keyword."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, create_model, model_validator

from kv_gym.errors import BudgetError, ConfigError, UnknownOptionError, unknown_name
from kv_gym.registry import CONFIG_FOLDER, env_ids
from kv_gym.rewards import reward_settings

MOST_TOKENS = 2**20
"""Longest texts, and most slots: what is larger is a slip of the pen."""
MOST_PROBLEMS = 1_000_000

MOST_CHARACTERS = 2**16
"""Longest texts that are put around a question."""


class _Settings(BaseModel):
    """All settings but those of the reward."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    problems: str | tuple[str, ...] = Field(
        min_length=1,
        description="Where problems come from: the name of a source, a local file (`.jsonl`, `.json`, `.csv`, "
        "`.parquet`), or a list of those, which take turns.",
    )
    needs_trace: bool = Field(
        False,
        description="Whether each problem must come with a recorded text to be replayed, from any of the fields that "
        "`kv-gym problems FILE` names; problems without one are left out. False: what a field `trace` holds is "
        "replayed, and everything else is written by the LLM.",
    )
    split: Literal["train", "validation", "test"] = Field(
        "train", description="Which problems are drawn: learn on `train`, tune on `validation`, measure on `test`."
    )
    problem_seed: int = Field(
        0, ge=0, lt=2**32, description="Seed that made problems are drawn with; benchmarks use 0."
    )
    n_problems: int = Field(
        256, ge=1, le=MOST_PROBLEMS, description="Problems in the set; all there are, if there are fewer."
    )
    model: str = Field(
        "tiny", description="Frozen LLM: `tiny` (part of kv-gym), a Hugging Face id, a local folder or a `.gguf` file."
    )
    revision: str | None = Field(
        None, description="Commit, branch or tag of a model of the Hugging Face hub; None: its main branch."
    )
    chat_template_kwargs: dict[str, JsonValue] = Field(
        {},
        description="What the model's chat template is told, such as `{'enable_thinking': False}`; names that it does "
        "not read are refused.",
    )
    system_prompt: str = Field(
        "",
        max_length=MOST_CHARACTERS,
        description="Turn of the system before the question; `''`: none but the chat template's own.",
    )
    instruction: str | None = Field(
        None,
        max_length=MOST_CHARACTERS,
        description="What follows each question, after an empty line; `''`: nothing. None: what the source adds, which "
        "for recorded questions that do not speak of `\\boxed` asks for the answer in it.",
    )
    dtype: str = Field("float32", description="Number format of the LLM: `float32`, `bfloat16` or `float16`.")
    device: str = Field("cpu", description="Where torch runs the LLM, such as `cpu` or `cuda`.")
    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="How the LLM writes token after token. `on`: with a step that is recorded (CUDA) or compiled (CPU: "
        "half a minute for each number of episodes and slots, then up to twice as fast). `auto`: on a GPU. Either way "
        "gives the same texts, but for rounding.",
    )
    budget: int = Field(
        128, ge=1, le=MOST_TOKENS, description="Slots that stay in each layer and KV head after an eviction."
    )
    evict_every: int = Field(
        16,
        ge=1,
        le=MOST_TOKENS,
        description="Tokens that are read between two evictions, and slots that each eviction takes from each layer "
        "and KV head.",
    )
    n_recent: int | None = Field(
        None, ge=0, description="How many of the newest slots are protected; None: as many as `evict_every`."
    )
    n_sink: int = Field(0, ge=0, description="How many of the first tokens of the text have protected slots.")
    protect_prompt: bool = Field(False, description="Whether the slots of the prompt are protected.")
    granularity: Literal["head", "layer", "token"] | None = Field(
        None,
        description="What decides together: `head`: each KV head decides alone; `layer`: all heads of a layer; "
        "`token`: all layers and heads. None: `token` with `action='slot'`, otherwise `head`.",
    )
    action: Literal["scores", "mask", "slot"] = Field("scores", description="Form of the action.")
    mode: Literal["generate", "replay"] = Field(
        "generate",
        description="`generate`: the LLM writes freely. `replay`: it reads a text that is known already, a recorded "
        "one or its own with the full cache, and writes only the answer at its end.",
    )
    max_prompt_tokens: int = Field(
        128, ge=1, le=MOST_TOKENS, description="Longest prompt, tokens; longer problems are left out."
    )
    max_new_tokens: int = Field(1024, ge=1, le=MOST_TOKENS, description="Longest text behind the prompt, tokens.")
    max_answer_tokens: int = Field(
        32, ge=1, le=MOST_TOKENS, description="Longest answer behind a replayed text, tokens."
    )
    temperature: float = Field(
        0.0, ge=0, description="How much chance there is in the LLM's choice of tokens; 0: always the likeliest one."
    )
    top_p: float = Field(
        1.0, gt=0, le=1, description="Tokens are drawn from the likeliest that have this probability together; 1: all."
    )
    top_k: int = Field(0, ge=0, description="Tokens are drawn from this many of the likeliest; 0: all.")
    shadow: bool = Field(
        True,
        description="Whether a second, full cache reads along, which the penalties are measured against. False is "
        "faster, without attention spikes, and in `generate` without loss spikes.",
    )
    observe_kv: bool = Field(False, description="Whether the observation has `keys` and `values`.")
    hindsight: bool = Field(
        False, description="Whether `info['hindsight']`, which no agent may read, has Golden Eviction's labels."
    )


if TYPE_CHECKING:  # what the reward adds is not known to type checkers
    _WithReward = _Settings
else:
    _WithReward = create_model(
        "_WithReward", __base__=_Settings, **reward_settings({*_Settings.model_fields, "entropy_threshold"})
    )


class EnvConfig(_WithReward):
    """Settings of one environment. Every field can be given to `gym.make` as a keyword.

    Weights and thresholds of the reward are declared by its terms (`kv_gym.rewards`).
    """

    entropy_threshold: float | None = Field(
        None,
        ge=0,
        description="The loss spike counts only tokens that the full cache predicts with at most this entropy, nats: "
        "those it is sure of. None: the four fifths of the full-cache text that it is surest of.",
    )

    @model_validator(mode="before")
    @classmethod
    def _plain_values(cls, values: Any) -> Any:
        """Take numpy's numbers as Python's, and lists as tuples."""
        if not isinstance(values, dict):
            return values
        return {name: tuple(value) if isinstance(value, list) else plain(value) for name, value in values.items()}

    @model_validator(mode="after")
    def _template_kwargs_are_small(self) -> EnvConfig:
        size = len(json.dumps(self.chat_template_kwargs))
        if size > MOST_CHARACTERS:
            raise ConfigError(f"chat_template_kwargs has {size} characters of JSON; {MOST_CHARACTERS} are allowed.")
        return self

    def __hash__(self) -> int:
        """Equal settings have one hash; pydantic's own cannot hash a mapping."""
        return hash(self.model_dump_json())

    @model_validator(mode="after")
    def _sources_differ(self) -> EnvConfig:
        names = self.problems if isinstance(self.problems, tuple) else (self.problems,)
        if not all(names) or len(set(names)) < len(names):
            raise ConfigError(f"problems={self.problems!r} must be a name or a list of different names.")
        return self

    @model_validator(mode="after")
    def _room_to_decide(self) -> EnvConfig:
        if self.action == "slot" and self.granularity not in (None, "token"):
            raise ConfigError(
                f"action='slot' evicts one slot everywhere, so granularity={self.granularity!r} is not possible. Use "
                "granularity='token', or action='scores'."
            )
        if self.action == "slot" and self.evict_every != 1:
            raise ConfigError(f"action='slot' evicts one slot a step, so evict_every={self.evict_every} must be 1.")
        protected = self.n_sink + self.recent
        if protected >= self.budget:
            raise BudgetError(
                f"budget={self.budget} leaves nothing to choose: n_sink={self.n_sink} + n_recent={self.recent} slots "
                f"are protected. Use budget >= {protected + 1} or lower n_recent or n_sink."
            )
        return self

    @property
    def recent(self) -> int:
        """Newest slots that are never evicted."""
        return self.evict_every if self.n_recent is None else self.n_recent

    @property
    def shared(self) -> Literal["head", "layer", "token"]:
        """The granularity, with its default filled in."""
        return self.granularity or ("token" if self.action == "slot" else "head")

    @property
    def slots(self) -> int:
        """Slots at every decision, S."""
        return self.budget + self.evict_every


def plain(value: Any) -> Any:
    """A number of numpy's as one of Python's; anything else as it is."""
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0 else value


class EnvPage(BaseModel):
    """One `envs_configs/*.yaml`: settings, the page's words, what `kv-gym bench` runs, and the changelog."""

    model_config = ConfigDict(extra="forbid")

    id: str
    title: str
    description: str
    settings: EnvConfig
    bench: BenchDefaults
    changelog: dict[str, str]


class BenchDefaults(BaseModel):
    """What `kv-gym bench` runs when nothing else is asked for."""

    model_config = ConfigDict(extra="forbid")

    agents: list[str]
    budgets: list[int]
    problems: int
    modes: list[Literal["generate", "replay"]] = ["generate", "replay"]


EnvPage.model_rebuild()


@functools.cache
def env_page(env_id: str) -> EnvPage:
    """Read the page of an environment.

    Raises:
        UnknownNameError: There is no such environment.
    """
    if env_id not in env_ids():
        raise unknown_name("environment", env_id, env_ids())
    return EnvPage.model_validate(yaml.safe_load((CONFIG_FOLDER / f"{env_id}.yaml").read_text()))


def make_config(env_id: str, **options: Any) -> EnvConfig:
    """Return the settings of an environment with `options` on top.

    Raises:
        UnknownOptionError: An option does not exist.
        ConfigError: A value is not allowed; BudgetError when protection fills the budget.
    """
    for name in options:
        if name not in EnvConfig.model_fields:
            see = f"See `kv-gym envs --page {env_id}`."
            raise unknown_name("option", name, EnvConfig.model_fields, see, UnknownOptionError)
    action = options.get("action")
    if isinstance(action, str) and action == "slot":
        options = {"evict_every": 1, **options}
    settings = env_page(env_id).settings.model_dump() | options
    try:
        return EnvConfig.model_validate(settings)
    except ValidationError as error:
        raise _plain(error) from error


def _plain(error: ValidationError) -> ConfigError:
    """Turn pydantic's report into one typed error that names value, rule and fix."""
    for problem in error.errors():
        cause = problem.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):
            return cause
    lines = [f"{'.'.join(map(str, p['loc']))}={p['input']!r} is not allowed: {p['msg']}." for p in error.errors()]
    return ConfigError(" ".join(lines))
