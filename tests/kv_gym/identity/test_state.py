"""Whatever objects, classes and modules hold while they are loaded is a part of an agent's identity."""

from __future__ import annotations

import pytest
from identity_pairs import HEAD, LOAD, Case, assert_told_apart, mine, tell

Told = dict[str, list[tuple[str, str]]]
PLAIN = {"mine.py": mine("k = 1\ndef score(self, slots):\n    return slots.positions * self.k * LAM", "LAM = 0.5")}
HOLDS = {
    "mine.py": mine(
        "def __init__(self, k=None):\n    self._k = k\n    self.k = None\n"
        "def score(self, slots):\n    return slots.positions"
    )
}


def changed(line: str) -> tuple[Case, Case]:
    """An agent as it was loaded, and changed afterwards."""
    return Case(PLAIN), Case(PLAIN, f"{LOAD}\n{line}")


def factory(source: str) -> tuple[Case, Case]:
    """Agents that one function made, with 1 and 2."""
    files = {"factory.py": HEAD + source}
    one, other = (f"from factory import make\nagent = make({k})()" for k in (1, 2))
    return Case(files, one), Case(files, other)


def inner(body: str, outside: str = "", inside: str = "pass") -> tuple[Case, Case]:
    """The same for a class with this body in the function."""
    made = f"def make(k):\n    {inside}\n    class A(Agent):\n        name = 'a'\n"
    return factory(outside + made + "".join(f"        {line}\n" for line in body.splitlines()) + "    return A\n")


SCORE = "def score(self, slots): return slots.positions * "
OTHER = {"other.py": "def score(self, slots): return 1\n"}
TWO = {"two.py": "a, b = (lambda x: x), (lambda y: -y)"}
K = {"mine.py": mine(SCORE + "rules.K", "import rules"), "rules.py": "K = 1\n"}
PROXY = """
class Proxy:
    def __init__(self, k): self.k = k
    def __getattr__(self, name): raise RuntimeError("not connected")
    def __call__(self): return 1
"""


def proxy(k: int) -> Case:
    """An agent that holds what raises whatever it is asked for."""
    return Case(HOLDS | {"proxies.py": PROXY}, f"{LOAD}\nfrom proxies import Proxy\nagent._k = Proxy({k})")


PAIRS: dict[str, tuple[Case, Case]] = {
    "what raises when it is asked": (proxy(1), proxy(2)),
    "a method of the object": changed("agent.score = lambda slots: -slots.positions"),
    "a method of the class": changed("type(agent).score = lambda self, slots: -slots.positions"),
    "a method from another file": (
        Case(PLAIN | OTHER), Case(PLAIN | OTHER, f"{LOAD}\nimport other\ntype(agent).score = other.score"),
    ),
    "an attribute of the class": changed("type(agent).k = 7"),
    "an attribute of a base of another package": (
        Case({}, "agent = load_agent('rkv')"), Case({}, "agent = load_agent('rkv')\ntype(agent).n_sink = 7"),
    ),
    "a constant of the module": changed("sys.modules[type(agent).__module__].LAM = 0.9"),
    "a constant of a helper": (
        Case(K), Case(K, f"{LOAD}\nimport rules\nrules.K = 2"),
    ),
    "a default of a helper": (
        Case({"mine.py": mine(SCORE + "f()", "from rules import f"), "rules.py": "def f(k=1): return k"}),
        Case({"mine.py": mine(SCORE + "f()", "from rules import f"), "rules.py": "def f(k=1): return k"},
             f"{LOAD}\nimport rules\nrules.f.__defaults__ = (2,)"),
    ),
    "a private attribute": (Case(HOLDS), Case(HOLDS, f"{LOAD}\nagent._k = 2")),
    "lambdas in one line": (
        Case(HOLDS | TWO, "import two\nagent = load_agent('mine.py:Mine', k=two.a)"),
        Case(HOLDS | TWO, "import two\nagent = load_agent('mine.py:Mine', k=two.b)"),
    ),
    "class: attribute": inner("lam = k\n" + SCORE + "self.lam"),
    "class: default": inner("def score(self, slots, k=k): return slots.positions * k"),
    "class: keyword default": inner("def score(self, slots, *, k=k): return slots.positions * k"),
    "class: property": inner(f"@property\ndef lam(self): return k\n{SCORE}self.lam"),
    "class: tensor around it": inner(SCORE + "t", inside="t = torch.tensor([k])"),
    "class: partialmethod": inner(
        "score = functools.partialmethod(f, k=k)",
        "import functools\ndef f(self, slots, k): return slots.positions * k\n",
    ),
    "class: decorator with an argument": inner(
        "@scaled(k)\n" + SCORE + "1",
        "import functools\ndef scaled(k):\n    def wrap(f):\n        @functools.wraps(f)\n"
        "        def g(self, slots): return f(self, slots) * k\n        return g\n    return wrap\n",
    ),
    "class: a dict of the module": inner(SCORE + "KS['k']", "KS = {}\n", "KS['k'] = k"),
    "class: by type()": factory(
        "def make(k):\n    score = lambda self, slots: slots.positions * k\n"
        "    return type('A', (Agent,), {'name': 'a', 'score': score})\n"
    ),
    "class: a base made in a function": factory(
        f"def base(k):\n    class B(Agent):\n        {SCORE}k\n    return B\ndef make(k):\n    B = base(k)\n"
        "    global A\n    class A(B):\n        name = 'a'\n    return A\n"
    ),
    "weights of a module": (
        Case({"mine.py": mine("def __init__(self):\n    self.net = torch.nn.Linear(1, 1)\n" + SCORE + "1")},
             "import torch\ntorch.manual_seed(0)\n" + LOAD),
        Case({"mine.py": mine("def __init__(self):\n    self.net = torch.nn.Linear(1, 1)\n" + SCORE + "1")},
             "import torch\ntorch.manual_seed(1)\n" + LOAD),
    ),
}  # fmt: skip
IMPORTS = """\
import torch, numpy as np
from collections import OrderedDict
from dataclasses import make_dataclass
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import Path
E = Enum('E', 'X Y')
D = make_dataclass('D', ['x'])
"""
VALUES = {
    "tensor": ("torch.ones(3)", "torch.zeros(3)"),
    "tensor's kind": ("torch.zeros(2, dtype=torch.int32)", "torch.zeros(2, dtype=torch.float32)"),
    "tensor's shape": ("torch.zeros(2, 3)", "torch.zeros(3, 2)"),
    "array": ("np.ones(3)", "np.zeros(3)"),
    "array of objects": ("np.array([1, 'a'], dtype=object)", "np.array([1, 'b'], dtype=object)"),
    "set": ("{'a', 'b'}", "{'a', 'c'}"),
    "path": ("Path('a')", "Path('b')"),
    "path or text": ("Path('a')", "'a'"),
    "keys": ("{1: 1}", "{1: 2}"),
    "keys' kind": ("{1: 1}", "{'1': 1}"),
    "a dict like a note": ("{'<set>': [1]}", "{1}"),
    "infinity": ("float('inf')", "float('-inf')"),
    "enum": ("E.X", "E.Y"),
    "dataclass": ("D(1)", "D(2)"),
    "function": ("max", "min"),
    "complex": ("1j", "2j"),
    "bytes": ("b'a'", "b'b'"),
    "fraction": ("Fraction(1, 2)", "Fraction(1, 3)"),
    "decimal": ("Decimal(1)", "Decimal(2)"),
    "order": ("OrderedDict(a=1, b=2)", "OrderedDict(b=2, a=1)"),
    "range": ("range(3)", "range(4)"),
}
for label, values in VALUES.items():
    given = [Case(HOLDS, f"{IMPORTS}agent = load_agent('mine.py:Mine', k={value})") for value in values]
    set_later = [Case(HOLDS, f"{IMPORTS}{LOAD}\nagent.k = {value}") for value in values]
    PAIRS |= {f"option: {label}": (given[0], given[1]), f"attribute: {label}": (set_later[0], set_later[1])}


EDIT = f"""{LOAD}
from pathlib import Path
Path('rules.py').write_text(Path('rules.py').read_text().replace('1', '2'))
"""
AGAIN = f"import importlib, rules\nimportlib.reload(rules)\n{LOAD}"
RULE = {"mine.py": mine(SCORE + "rule()", "from rules import rule"), "rules.py": "def rule(): return 1\n"}
LOCKS = ("__import__('threading').Lock()", "(i for i in [])", "open('mine.py')")
NESTED = ("a = []\na.append(a)", "a = []\nfor _ in range(999): a = [a]", "a = [0] * 10**6")
OTHERS = {
    "edited": [Case(RULE), Case(RULE, EDIT), Case(RULE, EDIT + AGAIN)],
    "edited constant": [Case(K), Case(K, EDIT), Case(K | {"rules.py": "K = 2\n"})],
    "locks": [Case(HOLDS, f"{LOAD}\nagent._k = {value}") for value in LOCKS],
    "nested": [Case(HOLDS, f"{LOAD}\n{made}\nagent.k = a") for made in NESTED],
    "folder": [Case({"mine.py": mine("def files(self):\n    return ['w']\n" + SCORE + "1"), "w/weights": "1"})],
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return tell(PAIRS | OTHERS, tmp_path_factory.mktemp("state"))


@pytest.mark.parametrize("name", PAIRS)
def test_what_is_held_counts(name: str, told: Told) -> None:
    assert_told_apart(told[name])


def test_a_source_that_was_edited_after_it_was_loaded_has_no_identity(told: Told) -> None:
    before, edited, again = told["edited"]
    assert [before[1], edited[1], again[1]] == ["", "rules.py was changed since it was loaded", ""]
    assert before[0] != again[0]


def test_a_constant_that_was_edited_after_it_was_loaded_is_no_other_agents(told: Told) -> None:
    """Its module holds what it was loaded with, and the file says something else."""
    assert len({sha for sha, _ in told["edited constant"]}) == 3


def test_what_cannot_be_told_from_others_has_no_identity(told: Told) -> None:
    for sha, why in told["locks"]:
        assert why.startswith("attribute _k: ") and "cannot be told from others" in why and sha.startswith("unnamed-")


def test_values_in_values_have_an_end(told: Told) -> None:
    assert [why for _, why in told["nested"]] == [
        "", "attribute k: it is nested too deeply", "attribute k: it holds more than 200000 values",
    ]  # fmt: skip


def test_files_is_asked_for_files(told: Told) -> None:
    [(_, error)] = told["folder"]
    assert "files() of Mine names 'w', which cannot be read (Is a directory). Let it name files" in error
