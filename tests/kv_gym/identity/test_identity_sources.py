"""Whatever an agent's sources reach for is a part of its identity, or a reason to have none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from identity_pairs import LOAD, Case, assert_told_apart, mine, tell

from kv_gym.identity.scan import scan

Told = dict[str, list[tuple[str, str]]]
USES = "def score(self, slots):\n    return slots.positions * {}"


def by_import(top: str, uses: str, **files: str) -> Callable[[int], Case]:
    """Agents whose files differ in K."""
    texts = {name.replace("__py", ".py").replace("_in_", "/"): text for name, text in files.items()}
    source = mine(USES.format(uses), top)
    return lambda k: Case({"mine.py": source, **{name: text.replace("<K>", str(k)) for name, text in texts.items()}})


READS = "import json, pathlib\nHERE = pathlib.Path(__file__).parent\n"
MADE: dict[str, Callable[[int], Case]] = {
    "beside it": by_import("from rules import K", "K", rules__py="K = <K>"),
    "inside a function": by_import(
        "", "self.k()\ndef k(self):\n    from rules import K\n    return K", rules__py="K = <K>"
    ),
    "two steps away": by_import("from between import K", "K", between__py="from rules import *", rules__py="K = <K>"),
    "in a package": by_import(
        "from pack.part import K", "K", **{"pack_in___init____py": "", "pack_in_part__py": "from .deep import K",
                                           "pack_in_deep__py": "K = <K>"}
    ),
    "import_module": by_import("import importlib\nr = importlib.import_module('rules')", "r.K", rules__py="K = <K>"),
    "import_module, renamed": by_import(
        "from importlib import import_module as load\nr = load('rules')", "r.K", rules__py="K = <K>"
    ),
    "import_module of a name that is a constant": by_import(
        "import importlib\nNAME = 'rules'\nr = importlib.import_module(NAME)", "r.K", rules__py="K = <K>"
    ),
    "__import__": by_import("r = __import__('rules')", "r.K", rules__py="K = <K>"),
    "__init__ of a package": by_import(
        "import pack.rules", "pack.K", **{"pack_in___init____py": "K = <K>", "pack_in_rules__py": "X = 1"}
    ),
    "a helper named like a module of Python's": by_import("import sched", "sched.K", sched__py="K = <K>"),
    "a package that imports when it is asked": by_import(
        "from pack import f",
        "f()",
        **{
            "pack_in___init____py": "import importlib\ndef __getattr__(n):\n"
            "    return getattr(importlib.import_module('pack.' + 'core'), n)\n",
            "pack_in_core__py": "def f(): return <K>\n",
        },
    ),
    "a namespace package, deep": by_import(
        "from pack.core import f", "f()", pack_in_core__py="from . import more\ndef f(): return more.g()\n",
        pack_in_more__py="def g(): return <K>\n",
    ),
    "a file beside a helper": by_import(
        "from rules import K", "K", rules__py=READS + "K = json.loads((HERE / 'k.json').read_text())",
        **{"k.json": "<K>"},
    ),
    "a file that is read in __init__": lambda k: Case({
        "mine.py": mine("def __init__(self):\n    self._k = len(json.loads((HERE / 'd' / 'k.json').read_text()))\n"
                        + USES.format("self._k"), READS),
        "d/k.json": f"[{k}]",
    }),
    "files that a pattern names": by_import(
        READS, "sum(int(p.read_text()) for p in HERE.glob('*.txt'))", **{"k.txt": "<K>"}
    ),
    "a variable of the environment": lambda k: Case(
        {"mine.py": mine(USES.format("float(os.environ.get('LAM', '1'))"), "import os")}, LOAD, {"LAM": str(k)}
    ),
    "a variable by getenv": lambda k: Case(
        {"mine.py": mine(USES.format("float(getenv(NAME))"), "from os import getenv\nNAME = 'LAM'")}, LOAD,
        {"LAM": str(k)},
    ),
    "files() of one name": lambda k: Case({
        "mine.py": mine("def files(self):\n    return ['a/w', 'b/w']\n" + USES.format(1)),
        "a/w": str(k), "b/w": "0",
    }),
}  # fmt: skip
PAIRS = {name: (made(1), made(2)) for name, made in MADE.items()}


NO_NAME = {
    "imports a module whose name is no constant (line 4)": mine(
        USES.format("r.K"), "import importlib\nr = importlib.import_module('ru' + 'les')"
    ),
    "runs code by exec() (line 3)": mine(USES.format("K"), "exec(open('rules.py').read())"),
    "runs code by run_path() (line 4)": mine(USES.format("K"), "import runpy\nK = runpy.run_path('rules.py')['K']"),
    "reads environment variables whose names are no constants (line 9)": mine(
        USES.format("len(os.environ)"), "import os"
    ).replace("def score", "\n    def score"),
}


SCRIPT = "def main():\n    exec('1' + '')\n    return dict(os.environ)\nnet = torch.nn.Linear(1, 1).eval()\n"
OTHERS = {
    "no name": [Case({"mine.py": source, "rules.py": "K = 1"}) for source in NO_NAME.values()],
    "unused": [PAIRS["beside it"][0], Case(PAIRS["beside it"][0].files | {"unused.py": "x = 1"})],
    "script": [Case({"mine.py": mine(USES.format(1), "import os\n" + SCRIPT)})],
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return tell(PAIRS | OTHERS, tmp_path_factory.mktemp("sources"))


@pytest.mark.parametrize("name", PAIRS)
def test_what_a_source_reaches_for_counts(name: str, told: Told) -> None:
    assert_told_apart(told[name])


def test_what_cannot_be_followed_has_no_identity(told: Told) -> None:
    assert [why for _, why in told["no name"]] == [f"mine.py {why}" for why in NO_NAME]


def test_what_no_agent_uses_is_no_reason(told: Told) -> None:
    """A script holds more than an agent; methods named like a function that runs code are others."""
    [(sha, why)] = told["script"]
    assert sha and not why


def test_what_lies_beside_an_agent_and_is_not_imported_does_not_count(told: Told) -> None:
    assert len(set(told["unused"])) == 1


def test_a_source_that_is_none_reaches_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import x\ndef (")
    assert not scan("broken", tmp_path / "broken.py").imports
    assert not scan("gone", tmp_path / "gone.py").imports
