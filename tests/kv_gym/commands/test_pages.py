"""The pages of the environments are current, say everything, and no link in the documentation leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path

import gymnasium
import pytest

from kv_gym.commands import main as cli
from kv_gym.commands import pages
from kv_gym.config import EnvConfig, env_page, make_config
from kv_gym.engine.features import COLUMNS, CONTEXT, FEATURES
from kv_gym.errors import ConfigError, UnknownNameError
from kv_gym.problems import problem_source, source_entries, source_kind
from kv_gym.problems.hub import HubSet
from kv_gym.registry import env_ids
from kv_gym.rewards import reward_settings

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "docs" / "envs"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ENV = "KVEvict-AIME-v0"


def section(text: str, heading: str) -> str:
    return text.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def row(text: str, first: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_the_committed_pages_are_current():
    made = pages.all_pages()
    remedy = "run `kv-gym envs --pages docs/envs`, look at the difference and commit it"
    assert {path.name for path in FOLDER.iterdir()} == set(made), remedy
    old = [name for name, text in made.items() if (FOLDER / name).read_text(encoding="utf-8") != text]
    assert not old, f"{', '.join(old)}: {remedy}"


def test_the_index_lists_every_environment():
    text = pages.render_index()
    assert re.findall(r"^\| \[(.+?)\]\(", text, re.M) == env_ids()
    assert row(text, f"[{ENV}]({ENV}.md)")[2:] == ["1024 from `aime`", "`tiny`", "generate", "128 + 16"]


@pytest.mark.parametrize("env_id", env_ids())
def test_a_page_says_everything_about_its_environment(env_id):
    text, page = pages.render_page(env_id), env_page(env_id)
    assert f'gym.make("{env_id}")' in text and page.title in text and page.description.strip() in text
    arguments = section(text, "Arguments")
    assert re.findall(r"^\| `(\w+)` \|", arguments, re.M) == list(EnvConfig.model_fields)
    assert all(field.description in arguments for field in EnvConfig.model_fields.values())
    observation = section(text, "Observation")
    assert all(all(part in observation for part in (f.unit, f.source, f.description)) for f in (*FEATURES, *CONTEXT))
    assert all(f"`{name}`" in observation for name in (*COLUMNS, *(column.name for column in CONTEXT)))
    assert all(f"`{agent}`" in section(text, "Bench defaults") for agent in page.bench.agents)
    assert all(f"- `{version}`: {change.strip()}" in text for version, change in page.changelog.items())
    names = page.settings.problems
    for kind in [source_kind(names)] if isinstance(names, str) else []:
        link = f"https://huggingface.co/datasets/{kind.repo}" if isinstance(kind, HubSet) else ""
        assert link in section(text, "Problem")


def test_settings_of_an_environment_stand_out():
    arguments = section(pages.render_page("KVEvict-AIME24-v0"), "Arguments")
    assert row(arguments, "`budget`")[1:3] == ["**`2048`** (else `128`)", "int >= 1 and <= 1048576"]
    assert row(arguments, "`problems`")[1] == "**`aime24`**"
    assert row(arguments, "`n_sink`")[1] == "`0`"
    assert row(arguments, "`top_p`")[1:3] == ["**`0.95`** (else `1.0`)", "float > 0 and <= 1"]
    assert row(arguments, "`granularity`")[2] == "`head` or `layer` or `token` or None"
    assert row(arguments, "`revision`")[2] == "str or None"
    assert row(arguments, "`chat_template_kwargs`")[1:3] == ["`{}`", "mapping of JSON values"]
    assert row(arguments, "`system_prompt`")[1:3] == ["`''`", "str"]


def test_the_spaces_are_those_of_the_environment():
    text, env = pages.render_page(ENV), gymnasium.make(ENV)
    assert f"```\n{env.action_space}\n```" in section(text, "Action")
    for name, part in env.observation_space.items():
        assert f"\n{name}: {part}\n" in section(text, "Observation")
    for i, name in enumerate(COLUMNS):
        found = next(line for line in text.splitlines() if f"`{name}`" in line and line.startswith("| "))
        indices, names = (cell.split(", ") for cell in found.strip("| ").split(" | ")[:2])
        assert dict(zip(names, indices, strict=True))[f"`{name}`"] == str(i)


def test_the_penalties_of_a_step_are_bounded_as_the_page_says():
    reward = section(pages.render_page(ENV), "Reward")
    assert "at most 0.275 in a step" in reward  # 0.02 * 3**2 + 0.1 * (1 - 0.05)
    assert re.findall(r"^\| `(\w+)` \|", reward, re.M) == [*reward_settings(), "entropy_threshold"]
    assert "no limit" in section(pages.render_page("KVEvict-GSM8K-v0"), "Reward")


MADE = [name for name in source_entries() if isinstance(source_kind(name), type)]


@pytest.mark.parametrize("name", MADE)
def test_made_problems_come_with_bounded_examples(name):
    text = pages.describe_problems(make_config(ENV, problems=name))
    source = problem_source(name)
    for index, family in enumerate(source.families):
        assert f"- `{family}`: " in text
        assert f"\n{source.problem('train', 0, index).prompt[: pages.LINE_CHARS - 1]}".rstrip() in text
    assert source.problem("train", 0, 0).solution in text
    assert len(text) < 5000


def test_long_examples_are_cut():
    lines = [f"line {i}" for i in range(30)]
    assert pages.excerpt("\n".join(lines)).splitlines() == [*lines[:10], "... 18 lines ...", *lines[-2:]]
    assert pages.excerpt("x" * 1000) == "x" * pages.LINE_CHARS + "..."
    assert pages.excerpt("\n".join(lines[:13])).splitlines() == lines[:13]


def test_markdown_survives_bars_and_backticks():
    assert pages.table(("a", "b"), [("x|y", "two\nlines")]).splitlines()[-1] == r"| x\|y | two lines |"
    assert pages.fence("a ``` b") == "````\na ``` b\n````"


def test_the_command_writes_and_prints_pages(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["envs", "--pages", str(tmp_path / "new" / "envs"), "--page", ENV])
    written = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "new" / "envs").iterdir()}
    assert stopped.value.code == 0 and written == pages.all_pages()
    assert capsys.readouterr().out == written[f"{ENV}.md"]


def test_mistakes_of_the_user(tmp_path):
    with pytest.raises(UnknownNameError, match=r"KVEvict-AME-v0.*Did you mean 'KVEvict-AIME-v0'"):
        pages.render_page("KVEvict-AME-v0")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="this is a file. Give a folder"):
        pages.write_pages(tmp_path / "file")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_to_files(path):
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    relative = [target.split("#")[0] for target in targets if not re.match(r"[a-z]+:", target)]
    missing = [target for target in relative if target and not (path.parent / target).exists()]
    assert not missing


def test_some_links_are_checked():
    assert all(path.exists() for path in DOCUMENTS) and len(DOCUMENTS) > len(env_ids()) + 2
