"""A submission holds all that its agent needs: it is loaded from there, wherever that is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kv_agents.learned import checkpoints

from kv_gym.agents import load_agent
from kv_gym.bench.progress import Silent
from kv_gym.errors import ConfigError
from kv_gym.leaderboard import submit
from kv_gym.leaderboard.alone import build, check_alone
from kv_gym.leaderboard.luggage import luggage
from kv_gym.leaderboard.protocol import read_protocol
from kv_gym.leaderboard.submission import SubmissionError, SubmittedAgent, read_submission
from kv_gym.leaderboard.submit import Entry, describe_agent, make_heading, make_submission, write_sums
from kv_gym.leaderboard.verify import check_submission

REPOSITORY = Path(__file__).parents[3]
HEADING = make_heading(title="Mine", slug="mine", authors=["me"])
AGENT = '''
from pathlib import Path

from kv_agents.base import Agent


class Mine(Agent):
    """Keep what is old."""

    name = "mine"

    def __init__(self, weights="", scale=1.0):
        {init}

    def files(self):
        return [{files}]

    def score(self, slots):
        return -slots.positions.float()
'''


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The submitter's working directory; what was imported from there is forgotten afterwards."""
    place = tmp_path / "home"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield place
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def write(home: Path, init: str = "pass", files: str = "", imports: str = "") -> str:
    """Write an agent; returns how it is named."""
    (home / "mine.py").write_text(imports + AGENT.format(init=init, files=files))
    return "mine.py:Mine"


def packed(home: Path, agent: str, **options: Any) -> tuple[Path, SubmittedAgent]:
    """The agent's part of a submission, in another folder; the original is gone."""
    described, files = describe_agent(Entry(agent, options, HEADING), load_agent(agent, **options))
    folder = home.parent / "submission"
    submit._pack(folder, files)
    shutil.move(home, home.parent / "elsewhere")
    home.mkdir()
    return folder, described


def holds(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder / "agent").as_posix() for path in (folder / "agent").rglob("*.*"))


def test_the_scorer_that_the_docs_teach_stands_alone(home: Path, protocol: Path) -> None:
    """Its weights are named relative to the working directory; it is run again where they are not."""
    [scorer] = re.findall(r"```python\n# scorer.py\n(.*?)```", (REPOSITORY / "docs" / "agents.md").read_text(), re.S)
    (home / "scorer.py").write_text(scorer)
    (home / "runs").mkdir()
    for suffix in (".safetensors", ".json"):
        shutil.copy(checkpoints.find("foresight").with_suffix(suffix), home / "runs" / f"my-scorer{suffix}")
    rules = read_protocol(protocol)
    folder = make_submission(Entry("scorer.py:MyScorer", {}, HEADING), rules, home.parent, Silent())
    assert holds(folder) == ["runs/my-scorer.json", "runs/my-scorer.safetensors", "scorer.py"]
    for path in (home / "scorer.py", home / "runs"):
        path.rename(home.parent / f"gone-{path.name}")
    verdict = check_submission(folder, rules, "rerun", Silent(), sample=1, seed=1)
    assert verdict.ok and "1 of 1 episodes gave the same text" in verdict.notes[-1], verdict.findings
    (folder / "agent" / "runs" / "my-scorer.safetensors").unlink()
    write_sums(folder)
    [finding] = check_submission(folder, rules, "rerun", Silent(), sample=1, seed=1).findings
    assert finding.code == "rerun.load" and "my-scorer" in finding.detail


def test_what_lies_beside_an_agent_travels_with_it(home: Path) -> None:
    """Modules, a package, a module of a module, and a file that it reads from beside itself."""
    (home / "parts" / "deep").mkdir(parents=True)
    (home / "parts" / "__init__.py").write_text("FACTOR = 2\n")
    (home / "parts" / "deep" / "scale.py").write_text("import below\nSCALE = below.HALF\n")
    (home / "below.py").write_text("HALF = 0.5\n")
    (home / "unused.py").write_text("")
    (home / "table.json").write_text("[3]")
    imports = "import json\nimport parts.deep.scale\n"
    init = 'self.table = json.loads(Path(__file__).with_name("table.json").read_text())[0] * parts.deep.scale.SCALE'
    agent = write(home, init, 'Path(__file__).with_name("table.json")', imports)
    folder, described = packed(home, agent)
    assert holds(folder) == ["below.py", "mine.py", "parts/__init__.py", "parts/deep/scale.py", "table.json"]
    check_alone(folder, described)
    assert build(folder, described).table == 1.5, "also where the original is loaded"
    assert sys.modules["below"].__file__ == str(folder / "agent" / "below.py")
    assert not list(folder.rglob("__pycache__")), "a check leaves the folder as it was"
    (folder / "agent" / "below.py").write_text("HALF = 0\n")
    with pytest.raises(SubmissionError, match="No module named 'parts'|cannot be loaded"):
        shutil.rmtree(folder / "agent" / "parts")
        check_alone(folder, described)


def test_modules_that_are_hard_to_find_travel_too(home: Path) -> None:
    """One named like a module of Python's, and one that is imported by a constant."""
    (home / "tabnanny.py").write_text("HALF = 0.5\n")
    (home / "rules.py").write_text("FACTOR = 2\n")
    imports = "import importlib\nimport tabnanny\nrules = importlib.import_module('rules')\n"
    folder, described = packed(home, write(home, "self.half = tabnanny.HALF * rules.FACTOR", imports=imports))
    assert holds(folder) == ["mine.py", "rules.py", "tabnanny.py"]
    check_alone(folder, described)


def test_an_option_that_names_a_file_names_the_one_in_the_submission(home: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.json").write_text("[7]")
    init = "self._path = Path(weights); self.weight = json.loads(self._path.read_text())[0]"
    agent = write(home, init, "self._path", "import json\n")
    folder, described = packed(home, agent, weights=str(tmp_path / "weights.json"), scale=2.0)
    (tmp_path / "weights.json").unlink()
    assert described.options == {"weights": "agent/weights.json", "scale": 2.0}
    check_alone(folder, described)
    assert build(folder, described).weight == 7


@pytest.mark.parametrize(
    ("init", "complaint"),
    [
        ('Path("table.json").read_text()', r"No such file or directory: 'table.json'(?s:.*)files\(\) names all"),
        ("Path('table.json').exists() or sys.exit(0)", "it ended the process"),
    ],
)
def test_what_is_not_in_the_submission_is_named_before_anything_is_played(
    home: Path, protocol: Path, monkeypatch: pytest.MonkeyPatch, init: str, complaint: str
) -> None:
    (home / "table.json").write_text("[]")
    agent = write(home, init, imports="import sys\n")
    monkeypatch.setattr(submit, "_play_all", lambda *_: pytest.fail("it was played"))
    with pytest.raises(SubmissionError, match=complaint):
        make_submission(Entry(agent, {}, HEADING), read_protocol(protocol), home.parent, Silent())
    assert not list(home.parent.glob("2*"))


SCHED = {"sched.py": "K = -1\n", "rules.py": "K = 1\n"}


@pytest.mark.parametrize(
    ("score", "said"),
    [
        ('importlib.import_module("ru" + "les").K * slots.positions.float()', "fails .* alone: ModuleNotFoundError"),
        ('importlib.import_module("sch" + "ed").K * slots.positions.float()', "fails .* alone: AttributeError"),
        ('(1 if Path("rules.py").exists() else -1) * slots.positions.float()', "evicts other slots when it is loaded"),
    ],
)
def test_what_is_missing_only_when_it_decides_is_named_before_anything_is_played(
    home: Path, protocol: Path, monkeypatch: pytest.MonkeyPatch, score: str, said: str
) -> None:
    """A module whose name is no constant; one that the standard library has too; a file that is looked for."""
    for name, content in SCHED.items():
        (home / name).write_text(content)
    sys.path.insert(0, str(home))
    sys.modules.pop("sched", None)
    agent = write(home, imports="import importlib\n")
    (home / "mine.py").write_text((home / "mine.py").read_text().replace("-slots.positions.float()", score))
    monkeypatch.setattr(submit, "_play_all", lambda *_: pytest.fail("it was played"))
    with pytest.raises(SubmissionError, match=f"the agent 'mine' {said}"):
        make_submission(Entry(agent, {}, HEADING), read_protocol(protocol), home.parent, Silent())


def test_an_agent_uses_nothing_outside_of_its_submission(home: Path, tmp_path: Path) -> None:
    """The file that it reads by a whole path is a copy away, and still there."""
    (tmp_path / "table.json").write_text("[]")
    table = f'Path("{tmp_path}/table.json")'
    folder, described = packed(home, write(home, f"{table}.read_text()", table))
    assert holds(folder) == ["mine.py", "table.json"]
    with pytest.raises(SubmissionError, match=f"submission lacks {tmp_path}/table.json. An agent reads its files in"):
        build(folder, described)


def test_an_agent_has_the_same_name_everywhere(home: Path) -> None:
    folder, described = packed(home, write(home, 'self.name = f"mine-{Path.cwd().name}"'))
    with pytest.raises(SubmissionError, match="'mine-home' calls itself 'mine-agent' here"):
        build(folder, described)


def test_files_that_no_submission_holds_are_refused(home: Path) -> None:
    (home / "weights.pt").write_bytes(b"x")
    for name, content in (("a", "1"), ("b", "2")):
        (home.parent / name).mkdir()
        (home.parent / name / "table.json").write_text(content)
    (home / "deep.json").write_text("{")
    for files, complaint in (
        ('Path("weights.pt")', r"weights.pt cannot be part of a submission.*\.py, \.safetensors, \.json only"),
        ('Path("../a/table.json"), Path("../b/table.json")', "would both be agent/table.json. Rename"),
        ('Path("deep.json")', "deep.json cannot be part of a submission: no JSON"),
        ('Path("none.json")', "none.json is missing"),
        ('Path("a b.json")', "A-Z, a-z, 0-9"),
        ('*(Path(f"{i}.json") for i in range(32))', "brings 33 files; 32 are allowed"),
    ):
        agent = write(home, files=files)
        with pytest.raises(ConfigError, match=complaint):
            luggage(load_agent(agent), Path("mine.py"))


def test_what_played_is_submitted_also_if_the_file_changes_meanwhile(
    home: Path, protocol: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, real = write(home), submit._play_all
    before = (home / "mine.py").read_text()

    def edited(*arguments: Any) -> None:
        real(*arguments)
        (home / "mine.py").write_text("nothing")

    monkeypatch.setattr(submit, "_play_all", edited)
    monkeypatch.setattr(submit, "check_alone", lambda *_: None)
    folder = make_submission(Entry(agent, {}, HEADING), read_protocol(protocol), home.parent, Silent())
    assert (folder / "agent" / "mine.py").read_text() == before


def test_options_may_be_any_json(home: Path, protocol: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"weights": {"layers": [1, 2.5, None, "x"], "deep": [[True]]}, "scale": None}
    agent = write(home, "self.given = (weights, scale)")
    monkeypatch.setattr(submit, "check_alone", lambda *_: None)
    rules = read_protocol(protocol)
    folder = make_submission(Entry(agent, options, HEADING), rules, home.parent, Silent())
    assert check_submission(folder, rules, "schema", Silent()).ok
    described = read_submission(folder).submission.agent
    assert described.options == options and build(folder, described).given == tuple(options.values())
    for refused, complaint in (
        ({"weights": "\u202e"}, r"options.weights holds U\+202E"),
        ({"weights": ["x" * 4000]}, "4,017 characters of JSON; 4,000 are allowed"),
        ({"weights": {1}}, "set is no JSON"),
    ):
        with pytest.raises(ConfigError, match=f"cannot be part of a submission.*{complaint}"):
            describe_agent(Entry(agent, refused, HEADING), load_agent(agent, **refused))


def test_another_process_runs_what_lies_in_the_folder(
    home: Path, protocol: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`kv-gym submit check --rerun` from the folder of the original, whose module says something else by now."""
    monkeypatch.setattr(submit, "check_alone", lambda *_: None)
    (home / "side.py").write_text("SIGN = -1\n")
    (home / "mine.py").write_text(
        "import side\n" + AGENT.format(init="pass", files="").replace("-slots", "side.SIGN * slots")
    )
    folder = make_submission(Entry("mine.py:Mine", {}, HEADING), read_protocol(protocol), home.parent, Silent())
    (home / "side.py").write_text("raise RuntimeError('the original')\n")
    command = ["submit", "check", str(folder), "--rerun", "--sample", "1", "--json", "--protocol", str(protocol)]
    code = f"from kv_gym.commands.main import main; main({command!r})"
    run = subprocess.run([sys.executable, "-c", code], cwd=home, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 of 1 episodes gave the same text" in json.loads(run.stdout)["notes"][-1]


def test_an_installed_scorer_takes_the_checkpoint_that_it_was_given(home: Path) -> None:
    """Its files lie flat, and the shipped weights of its name are not used instead."""
    (home / "runs").mkdir()
    for suffix in (".safetensors", ".json"):
        shutil.copy(checkpoints.find("transfer").with_suffix(suffix), home / "runs" / f"own{suffix}")
    folder, described = packed(home, "transfer", checkpoint="runs/own.safetensors")
    assert holds(folder) == ["own.json", "own.safetensors"] and described.kind == "checkpoint"
    assert described.file == described.options["checkpoint"] == "agent/own.safetensors"
    assert build(folder, described).files()[0] == folder / "agent" / "own.safetensors"
