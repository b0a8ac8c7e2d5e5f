"""Sources by name: those of installed packages, and several in turn."""

from __future__ import annotations

import hashlib
import json
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from plugin import install_package, pretend, run_python

from kv_gym import problems
from kv_gym.config import env_page, make_config
from kv_gym.errors import ConfigError, UnknownNameError
from kv_gym.problems import MixedSource, list_problems, problem_source, source_entries
from kv_gym.problems.recorded import RecordedSource, survey_rows

PROMISES = {
    "KVEvict-AIME-v0": "894732dc7269ce21",
    "KVEvict-Code-v0": "989cadc04d27db33",
    "KVEvict-Mixed-v0": "6944f8b651d8e18b",
    "KVEvict-Retrieval-v0": "283b921581e55a7e",
    "KVEvict-Summary-v0": "eed36f056e75417f",
}
"""Hash of the first 24 problems of each split, by id."""

SOURCE = '''
"""Sums that are written out one after another."""

from kv_gym.problems import Problem
from kv_gym.problems.base import problem_rng


class Sums:
    """Three numbers to be added."""

    name = "sums"
    families = ("three",)

    def size(self, split):
        return None

    def problem(self, split, seed, index):
        values = [int(value) for value in problem_rng(split, seed, index).integers(100, size=3)]
        names = "abc"
        given = ",".join(f"{name}={value:03}" for name, value in zip(names, values))
        text = f"graph {given},d=a+b,e=d+c?e\\n"
        return Problem(f"sums/{split}/{seed}/{index}", "three", text, f"{sum(values) % 1000:03}")
'''
PLAY = """
import json, gymnasium, kv_gym
env = gymnasium.make("KVEvict-AIME-v0", problems="sums", budget=24, evict_every=8, shadow=False)
observation, info = env.reset(seed=0)
done, steps = False, 0
while not done:
    *_, terminated, truncated, info = env.step(env.action_space.sample())
    done, steps = terminated or truncated, steps + 1
print(json.dumps({"problem": info["problem"], "family": info["family"], "steps": steps}))
"""


def install(monkeypatch: pytest.MonkeyPatch, *entries: tuple[str, str]) -> None:
    """Pretend that packages offer these sources."""
    pretend(monkeypatch, problems.GROUP, [EntryPoint(name, value, problems.GROUP) for name, value in entries])


@pytest.fixture(autouse=True)
def forget_sources() -> None:
    problem_source.cache_clear()


def test_an_installed_package_adds_a_domain(tmp_path: Path) -> None:
    entry = '[project.entry-points."kv_gym.problems"]\nsums = "my_package.domain:Sums"\n'
    played = json.loads(run_python(install_package(tmp_path, {"domain": SOURCE}, entry), "-c", PLAY))
    assert played["problem"].startswith("sums/train/0/") and played["family"] == "three" and played["steps"] >= 2


def test_sources_take_turns() -> None:
    mixed = problem_source(("summary", "aime"))
    for index, name in enumerate(["summary", "aime"] * 3):
        assert mixed.problem("validation", 3, index) == problem_source(name).problem("validation", 3, index // 2)
    assert mixed.name == "summary+aime" and mixed.size("test") is None
    assert mixed.families == (*problem_source("summary").families, *problem_source("aime").families)


def test_turns_end_with_the_smallest_source() -> None:
    rows = [{"question": f"q{i}", "answer": "1"} for i in range(3)]
    assert MixedSource([problem_source("aime"), RecordedSource(survey_rows("mine", rows))]).size("test") == 6


def test_several_sources_are_a_list_in_settings() -> None:
    config = make_config("KVEvict-AIME-v0", problems=["aime", "code"], n_problems=4)
    assert [problem.id for problem in list_problems(config)] == [
        "aime/train/0/0", "code/train/0/0", "aime/train/0/1", "code/train/0/1",
    ]  # fmt: skip
    assert hash(config) == hash(make_config("KVEvict-AIME-v0", problems=("aime", "code"), n_problems=4))


@pytest.mark.parametrize("value", [[], "", ["aime", ""], ["aime", 1], ["aime", "aime"], 3, None])
def test_a_list_without_names_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="problems"):
        make_config("KVEvict-AIME-v0", problems=value)


def test_an_unknown_source_is_suggested() -> None:
    with pytest.raises(UnknownNameError, match=r"problem source 'aimee'\. Did you mean 'aime'\?.*problems=my.jsonl"):
        problem_source(("code", "aimee"))


def test_a_package_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, ("broken", "no_such_package.domain:Source"))
    with pytest.raises(ConfigError, match=r"'broken' \(no_such_package.domain:Source\) cannot be imported: ModuleNot"):
        problem_source("broken")


def test_what_is_no_source_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, ("odd", "builtins:dict"))
    with pytest.raises(ConfigError, match=r"'odd' \(builtins:dict\) has no name, families, size, problem\. See"):
        problem_source("odd")


ODD = {
    "raises": "def source(): raise OSError('no network')",
    "no call": "source = 3",
    "twice": """
class source:
    name, families = 'odd', ('f',)
    def size(self, split): return 2
    def problem(self, split, seed, index):
        from kv_gym.problems import Problem
        return Problem('odd/0', 'f', str(index), '1')
""",
    "empty": """
class source:
    name, families = 'odd', ('f',)
    def size(self, split): return 0
    def problem(self, split, seed, index): raise IndexError(index)
""",
    "no problem": """
class source:
    name, families = 'odd', ('f',)
    def size(self, split): return 1
    def problem(self, split, seed, index): return {'id': 'odd/0'}
""",
}
COMPLAINTS = {
    "raises": r"'odd' \(odd_source:source\) cannot be made: OSError: no network\. Mend or uninstall",
    "no call": "cannot be made: TypeError",
    "twice": "has two problems 'odd/0'",
    "empty": "has no problem in its test split",
    "no problem": "gives dict, not a Problem",
}


@pytest.mark.parametrize("kind", ODD)
def test_a_source_that_misbehaves_is_named(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "odd_source.py").write_text(ODD[kind])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "odd_source", raising=False)
    install(monkeypatch, ("odd", "odd_source:source"))
    with pytest.raises(ConfigError, match=COMPLAINTS[kind]):
        list_problems(make_config("KVEvict-AIME-v0", problems="odd", split="test", n_problems=2))


def test_two_packages_cannot_claim_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, ("aime", "kv_gym.problems.aime:AIMESource"), ("aime", "other:Source"))
    with pytest.raises(ConfigError, match="'aime' is claimed by .* Uninstall one"):
        source_entries()


def test_mixed_takes_the_sources_it_always_took() -> None:
    assert env_page("KVEvict-Mixed-v0").settings.problems == ("aime", "code", "retrieval", "summary"), (
        "KVEvict-Mixed-v0 is a promise: other sources change its problems. Put the list back "
        "(envs_configs/KVEvict-Mixed-v0.yaml) and make a KVEvict-Mixed-v1."
    )


@pytest.mark.parametrize("env_id", PROMISES)
def test_published_ids_keep_their_problems(env_id: str) -> None:
    texts = []
    for split in ("train", "validation", "test"):
        found = list_problems(make_config(env_id, split=split, n_problems=24))
        texts += [[p.id, p.family, p.prompt, p.answer, p.graded] for p in found]
    digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]
    assert digest == PROMISES[env_id], (
        f"the problems of {env_id} have changed (hash {digest}), so its published numbers are of others. Undo the "
        "change of its source, or make a new source and a new id (-v1) for it."
    )
