"""A Markdown page for every environment, and their index, made from what the code says about itself.

    docstring of KVEvictEnv + envs_configs/*.yaml + EnvConfig + FEATURES + problem sources -> docs/envs/*.md

Nothing about environments is written here: to change a page, change its source and run `kv-gym envs --pages docs/envs`.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import torch
from gymnasium import spaces
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.markdown import Markdown

from kv_gym.config import EnvConfig, EnvPage, env_page
from kv_gym.engine import features
from kv_gym.engine.features import COLUMNS, CONTEXT, FEATURES
from kv_gym.envs.actions import AXES, decision_shape, make_action_space
from kv_gym.envs.eviction_env import KVEvictEnv
from kv_gym.envs.observations import make_observation_space
from kv_gym.errors import ConfigError
from kv_gym.llm.cache import CacheShape
from kv_gym.llm.known import known_models
from kv_gym.problems import ProblemSource, problem_source, source_kind
from kv_gym.problems.formats import is_file_name
from kv_gym.problems.hub import HubSet
from kv_gym.problems.recorded import INSTRUCTION
from kv_gym.problems.worked import MadeSource
from kv_gym.registry import env_ids
from kv_gym.rewards import REWARD_TERMS, reward_settings, weights_of

INDEX = "README.md"
LINE_CHARS, HEAD_LINES, TAIL_LINES = 400, 10, 2  # of an example; the rest is left out
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}  # of pydantic's limits
SECTIONS = re.compile(r"^## (.+)\n", re.M)
MADE_BY = "*Made by `kv-gym envs --pages docs/envs` from docstrings and YAML; do not edit.*"


def write_pages(folder: Path) -> list[Path]:
    """Write the page of every environment and their index; return the files.

    Raises:
        ConfigError: `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--pages {folder}: this is a file. Give a folder, such as docs/envs.")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in all_pages().items():
        paths.append(folder / name)
        paths[-1].write_text(text, encoding="utf-8")
    return paths


def show_pages(env_id: str | None, folder: Path | None) -> None:
    """Do what `kv-gym envs` was asked: print the page of an environment, write all pages, or both."""
    if folder:
        print(f"{len(write_pages(folder))} pages: {folder}", file=sys.stderr)
    if env_id and sys.stdout.isatty():
        Console().print(Markdown(render_page(env_id)))
    elif env_id:
        print(render_page(env_id), end="")


def all_pages() -> dict[str, str]:
    """The text of each file of the folder, by file name."""
    return {INDEX: render_index(), **{f"{env_id}.md": render_page(env_id) for env_id in env_ids()}}


def render_index() -> str:
    """Describe all environments in a table."""
    rows = []
    for env_id in env_ids():
        page, config = env_page(env_id), env_page(env_id).settings
        names = config.problems if isinstance(config.problems, tuple) else [config.problems]
        problems = f"{config.n_problems} from {listed(names)}"
        sizes = f"{config.budget} + {config.evict_every}"
        rows.append((f"[{env_id}]({env_id}.md)", page.title, problems, f"`{config.model}`", config.mode, sizes))
    return join_parts(
        "# Environments",
        page_sections()[""],
        table(("id", "title", "problems", "frozen LLM", "mode", "slots: stay + go"), rows),
        "All of them have the same actions, observations and rewards; what differs are problems and settings. Each "
        "page ends with a list of words for those who are new to attention. `kv-gym envs --page ID` shows one in the "
        "terminal.",
        MADE_BY,
    )


def render_page(env_id: str) -> str:
    """Describe an environment.

    Raises:
        UnknownNameError: There is no such environment.
    """
    page, words = env_page(env_id), page_sections()
    changes = "\n".join(f"- `{version}`: {text.strip()}" for version, text in page.changelog.items())
    links = f"`{env_id}` · [all environments]({INDEX}) · [words](#words)"
    parts = [f"# {page.title}", links, words[""], page.description, snippet(env_id)]
    parts += ["## Problem", words["Problem"], describe_problems(page.settings)]
    parts += ["## Action", words["Action"], describe_action(page.settings)]
    parts += ["## Observation", words["Observation"], describe_observation(page.settings)]
    parts += ["## Reward", words["Reward"], describe_reward(page.settings)]
    parts += ["## Episode end", words["Episode end"], "## Info", words["Info"]]
    parts += ["## Arguments", words["Arguments"], describe_settings(page.settings, EnvConfig.model_fields)]
    parts += ["## Bench defaults", describe_bench(page), "## Versions", words["Versions"], changes]
    return join_parts(*parts, "## Words", words["Words"], MADE_BY)


def page_sections() -> dict[str, str]:
    """The docstring of `KVEvictEnv` without its arguments: text by heading; "" is the line above them."""
    text = plain_doc(KVEvictEnv).split("\n\nArgs:\n")[0]
    first, *rest = SECTIONS.split(text)
    return {"": first.strip()} | {name: body.strip() for name, body in zip(rest[::2], rest[1::2], strict=True)}


def snippet(env_id: str) -> str:
    """How an environment is made and played."""
    return fence(
        "import gymnasium as gym\n"
        "import kv_gym  # registers the ids\n\n"
        f'env = gym.make("{env_id}")\n'
        "observation, info = env.reset(seed=0)\n"
        "action = env.action_space.sample()  # anything; a good agent looks at the observation\n"
        "observation, reward, terminated, truncated, info = env.step(action)",
        "python",
    )


# --- Problems ----------------------------------------------------------------------------------------------------


def describe_problems(config: EnvConfig) -> str:
    """What the problems are and where they come from, with an example where they are made here."""
    if isinstance(config.problems, tuple):
        return describe_mixed(config.problems, config)
    if is_file_name(config.problems):
        return f"The problems are those of the file `{config.problems}`."
    kind = source_kind(config.problems)
    if not isinstance(kind, HubSet):
        return describe_made(kind(), config)
    repo = kind.repo
    return (
        f"The problems are the dataset [{repo}](https://huggingface.co/datasets/{repo}) of the Hugging Face hub, "
        'downloaded when the environment is first made (`pip install "kv-gym[hub]"`). Without a network, or for '
        f'problems of your own, give a file: `problems="path/to/{config.problems}.jsonl"` ([its fields and formats]'
        "(../problems.md)). The prompt is the question and, unless it speaks of `\\boxed` itself: "
        f"`{INSTRUCTION.strip()}` (`instruction` sets another one)"
    )


def describe_mixed(names: Sequence[str], config: EnvConfig) -> str:
    """Which sources take turns, and a prompt of each."""
    sources = {name: problem_source(name) for name in names}
    firsts = [source.problem(config.split, config.problem_seed, 0).prompt.strip() for source in sources.values()]
    families = (f"- `{name}`: {listed(source.families)}" for name, source in sources.items())
    return join_parts(
        f"Sources take turns: problem i is problem i // {len(names)} of source i % {len(names)}, under its id and "
        "family there.",
        "\n".join(families),
        "The first prompt of each:",
        fence("\n".join(shorten(prompt, LINE_CHARS) for prompt in firsts)),
    )


def describe_made(source: ProblemSource, config: EnvConfig) -> str:
    """The families of a made source, each with a prompt, and the first problem's solution; of others, the families."""
    if not isinstance(source, MadeSource):
        return join_parts(plain_doc(type(source)), f"Problems of these families: {listed(source.families)}.")
    families, prompts = [], []
    for index, (name, drawer) in enumerate(source.drafts.items()):
        families.append(f"- `{name}`: {' '.join(plain_doc(drawer).split())}")
        prompts.append(source.problem(config.split, config.problem_seed, index).prompt.strip())
    first = source.problem(config.split, config.problem_seed, 0)
    return join_parts(
        plain_doc(type(source)),
        f"Problems of these families take turns ({source.name!r} in `kv_gym/problems`):",
        "\n".join(families),
        "The first prompt of each:",
        fence("\n".join(shorten(prompt, LINE_CHARS) for prompt in prompts)),
        "A solution of the first one. The environment never shows it: such solutions were made to train `tiny`, and "
        "the LLM writes its own.",
        fence(excerpt(first.solution)),
        source.notation,
    )


def excerpt(text: str) -> str:
    """The first and last lines of a text, each of bounded length."""
    lines = [shorten(line, LINE_CHARS) for line in text.strip().splitlines()]
    left_out = len(lines) - HEAD_LINES - TAIL_LINES
    if left_out > 1:
        lines[HEAD_LINES:-TAIL_LINES] = [f"... {left_out} lines ..."]
    return "\n".join(lines)


def shorten(text: str, limit: int) -> str:
    """Cut a text after `limit` characters, and say so."""
    return text if len(text) <= limit else f"{text[:limit]}..."


# --- Spaces and reward -------------------------------------------------------------------------------------------


def describe_action(config: EnvConfig) -> str:
    """The action space with an environment's own settings."""
    chosen = (
        f"This environment has `action={config.action!r}`, `granularity={config.shared!r}` and S = {config.budget} + "
    )
    sizes = cache_shape(config.model)
    if sizes is None:
        axes = "" if config.action == "slot" else f" of shape {AXES[config.shared]}"
        return (
            f"{chosen}{config.evict_every} = {config.slots}, a space{axes}; `env.action_space` has the sizes of "
            f"`{config.model}`."
        )
    shape = decision_shape(sizes.n_layers, sizes.n_kv_heads, config.slots, config.shared)
    return f"{chosen}{config.evict_every} = {config.slots}:\n\n{fence(str(make_action_space(config, shape)))}"


def describe_observation(config: EnvConfig) -> str:
    """The observation space with an environment's own settings, and what the numbers of its arrays are."""
    rows: list[tuple[str, ...]] = []
    for feature in FEATURES:
        indices = ", ".join(str(COLUMNS.index(name)) for name in feature.columns)
        rows.append((indices, listed(feature.columns), feature.unit, feature.source, feature.description))
    context = [(str(i), f"`{c.name}`", c.unit, c.source, c.description) for i, c in enumerate(CONTEXT)]
    header = ("unit", "source", "description")
    return join_parts(
        describe_observation_space(config),
        f"### The {len(COLUMNS)} numbers about each slot",
        plain_doc(features).partition("\n\n")[2],
        table(("index", "column", *header), rows),
        f"### The {len(CONTEXT)} numbers about the episode",
        table(("index", "column", *header), context),
    )


def describe_observation_space(config: EnvConfig) -> str:
    """The space, printed, or its sizes as far as they are known."""
    sizes = cache_shape(config.model)
    if sizes is None:
        known = f"S = {config.slots}, F = {len(COLUMNS)} and C = {len(CONTEXT)}"
        return f"Here {known}; `env.observation_space` has the sizes of `{config.model}`."
    shape = decision_shape(sizes.n_layers, sizes.n_kv_heads, config.slots, config.shared)
    return f"Here:\n\n{fence(space_text(make_observation_space(config, sizes, shape)))}"


def space_text(space: spaces.Dict) -> str:
    """A Dict space, one part a line."""
    return "\n".join(f"{name}: {part}" for name, part in space.items())


def cache_shape(model: str) -> CacheShape | None:
    """Sizes of a model of `kv_gym/llm/known.yaml`, without loading it."""
    for known in known_models().models:
        if known.id == model:
            sizes = (known.layers, known.q_heads, known.kv_heads, known.head_dim)
            return CacheShape(*sizes, torch.float32, torch.device("cpu"))
    return None


def describe_reward(config: EnvConfig) -> str:
    """The settings that the reward depends on, and what a step can cost at most."""
    fields = {name: EnvConfig.model_fields[name] for name in (*reward_settings(), "entropy_threshold")}
    weights, penalties = weights_of(config), [term for term in REWARD_TERMS if term.sign < 0]
    worst = {term.name: term.worst(config) for term in penalties}
    count = NUMBERS[len(penalties)]
    unbounded = [reason for name, reason in worst.items() if isinstance(reason, str) and weights[name]]
    if unbounded:
        told = f"What the {count} penalties cost in a step has no limit, because {' and '.join(unbounded)}."
    else:
        most = sum(weights[name] * value for name, value in worst.items() if not isinstance(value, str))
        told = f"The {count} penalties cost at most {most:.4g} in a step."
    return join_parts(describe_settings(config, fields), told)


# --- Settings ----------------------------------------------------------------------------------------------------


def describe_settings(config: EnvConfig, fields: dict[str, FieldInfo]) -> str:
    """A table of settings; values in bold are this environment's own."""
    rows = []
    for name, field in fields.items():
        value, default = getattr(config, name), field.get_default()
        value = list(value) if isinstance(value, tuple) else value  # as it is written
        own = field.is_required() or value != default
        value = "''" if value == "" else value
        others = "" if field.is_required() else f" (else `{default}`)"
        shown = f"**`{value}`**{others}" if own else f"`{value}`"
        rows.append((f"`{name}`", shown, allowed(field), field.description or ""))
    note = "Values in bold are set by this environment, and in brackets is what the others have by default."
    return join_parts(note, table(("argument", "value", "allowed", "meaning"), rows))


def allowed(field: FieldInfo) -> str:
    """The values that a setting may have: its choices, or its type and limits."""
    whole = get_origin(field.annotation) is dict
    kinds = (field.annotation,) if whole else get_args(field.annotation) or (field.annotation,)
    first, *others = [allowed_kind(kind) for kind in kinds]
    limits = [
        f"{sign} {getattr(limit, key)}"
        for limit in field.metadata
        for key, sign in SIGNS.items()
        if hasattr(limit, key)
    ]
    return " or ".join([f"{first} {' and '.join(limits)}".strip(), *others])


def allowed_kind(kind: Any) -> str:
    """One type or choice in words."""
    if kind is type(None):
        return "None"
    if get_origin(kind) is tuple:
        return "list of names"
    if get_origin(kind) is dict:
        return "mapping of JSON values"
    if isinstance(kind, type):
        return kind.__name__
    choices = get_args(kind)  # of a Literal inside a union
    return " or ".join(f"`{choice}`" for choice in choices) if choices else f"`{kind}`"


def describe_bench(page: EnvPage) -> str:
    """What `kv-gym bench` runs, and what the LLM reaches without evictions."""
    bench, env_id = page.bench, page.id
    lines = [
        f"`kv-gym bench {env_id}` plays the first {bench.problems} problems of the `test` split with "
        f"{len(bench.agents)} agents ({listed(bench.agents)}; `kv-gym agents` describes them) at budgets of "
        f"{', '.join(map(str, bench.budgets))} slots, with `mode` {' and '.join(f'`{mode}`' for mode in bench.modes)}."
    ]
    if page.settings.temperature > 0:
        lines.append(
            "The LLM draws its tokens, so results vary: `--seeds k` plays every problem k times, and the mean is avg@k."
        )
    for model in known_models().models:
        for figure in model.measured:
            if figure.env_id == env_id:
                lines.append(
                    f"With the full cache, `{model.file or model.id}` solves {figure.accuracy:g}% of "
                    f"{figure.problems} problems, in texts of {figure.tokens} tokens on average."
                )
    return "\n\n".join(lines)


# --- Markdown ----------------------------------------------------------------------------------------------------


def join_parts(*parts: str) -> str:
    """Put parts below each other, without the empty ones."""
    return "\n\n".join(part.strip("\n") for part in parts if part.strip()) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; cells are put on one line, and their bars escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(" ".join(c.replace("|", "\\|").split()) for c in line) + " |" for line in lines)


def fence(text: str, language: str = "") -> str:
    """A block of code, fenced by more backticks than it holds in a row."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    bars = "`" * max(3, longest + 1)
    return f"{bars}{language}\n{text}\n{bars}"


def listed(names: Iterable[str]) -> str:
    """Names as code, with commas."""
    return ", ".join(f"`{name}`" for name in names)


def plain_doc(thing: Any) -> str:
    """The docstring of a module, class or function."""
    return inspect.getdoc(thing) or ""
