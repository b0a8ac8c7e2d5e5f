"""Agents as people write them have an identity, and the same one in every folder and process."""

from __future__ import annotations

import pytest
from identity_pairs import LOAD, Case, mine, tell

from kv_gym.agents import known_agents, load_agent
from kv_gym.identity import identity_of

Told = dict[str, list[tuple[str, str]]]
SCORE = "def score(self, slots):\n    return slots.positions.float() * {}\n"
SOURCES = {
    "decorators": mine(
        "@torch.no_grad()\n" + SCORE.format("twice(self.lam)") + "@functools.cached_property\ndef lam(self): return 2\n"
        "@staticmethod\ndef f(): return 1\n@property\ndef g(self): return 2\n",
        "import functools\n@functools.lru_cache\ndef twice(x): return 2 * x",
    ),
    "globals": mine(
        SCORE.format("len(str(HERE)) * WORD.groups * len(DIR) * T.ndim * K.X.value * log.level"),
        "import enum, logging, os, re, threading\nfrom pathlib import Path\nHERE = Path(__file__).parent\n"
        "DIR = os.path.dirname(__file__)\nlog = logging.getLogger(__name__)\nLOCK = threading.Lock()\n"
        "WORD = re.compile('(a)')\nT = torch.ones(2, device='cpu')\nclass K(enum.Enum):\n    X = 1\n    Y = 2",
    ),
    "compiled": mine(
        SCORE.format("g(x) * h(slots)") + "def other(self): return LOCK",
        "import threading\nLOCK = threading.Lock()\n@torch.jit.script\ndef g(x: torch.Tensor): return x * 2\n"
        "@torch.compile\ndef h(x): return x",
    ),
    "a module": "from torch import nn\n" + mine(
        "def __init__(self, n=2):\n    nn.Module.__init__(self)\n    torch.manual_seed(0)\n"
        "    self.net = nn.Sequential(nn.Linear(n, n), nn.GELU(), nn.Dropout(0.1))\n    self.rng = torch.Generator()\n"
        + SCORE.format(1)
    ).replace("(Agent)", "(Agent, nn.Module)"),
    "a dataclass": mine("n: int = 1\nnames: list = dataclasses.field(default_factory=list)\n" + SCORE.format("self.n"),
                        "import dataclasses").replace("class Mine", "@dataclasses.dataclass\nclass Mine"),
    "slots": mine("__slots__ = ('_k',)\ndef __init__(self):\n    self._k = 1\n" + SCORE.format("self._k")),
    "what points back": mine(
        "def __init__(self):\n    self.me = self\n    self.call = self.score\n    self.rules = [lambda x: x, self]\n"
        + SCORE.format(1)
    ),
    "the model": mine("def prepare(self, llm):\n    self.llm = llm\n" + SCORE.format(1)),
    "a path into its folder": mine(
        "def __init__(self):\n    self.path = Path(__file__).parent / 'gone'\n    self.text = str(self.path)\n"
        + SCORE.format(1), "from pathlib import Path"
    ),
    "of Python's": mine(
        "def __init__(self):\n    self.a = collections.defaultdict(list)\n    self.b = random.Random(0)\n"
        "    self.c = functools.partial(max, 1)\n    self.d = operator.itemgetter(1)\n    self.e = datetime.date.min\n"
        + SCORE.format(1), "import collections, datetime, functools, operator, random"
    ),
}  # fmt: skip
AGENTS = {name: [Case({"mine.py": source})] * 2 for name, source in SOURCES.items()}
MODEL = "from kv_gym.llm.loading import load_llm\nllm = load_llm('tiny')\n"
AGENTS["the model"] = [Case(AGENTS["the model"][0].files, f"{MODEL}{LOAD}\nagent.prepare(llm)")] * 2


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return tell(AGENTS, tmp_path_factory.mktemp("ordinary"))


@pytest.mark.parametrize("name", AGENTS)
def test_ordinary_agents_have_one_identity(name: str, told: Told) -> None:
    assert [why for _, why in told[name]] == ["", "", ""]
    assert len(set(told[name])) == 1


def test_every_shipped_agent_has_an_identity() -> None:
    for name in known_agents():
        assert [identity_of(load_agent(name)).unnamed, name] == ["", name]
        assert identity_of(load_agent(name)).sha256 == identity_of(load_agent(name)).sha256
