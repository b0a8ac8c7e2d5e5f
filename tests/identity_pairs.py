"""Who agents are in fresh processes: each case is a folder of files and the code that builds `agent` there."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HEAD = "import torch\nfrom kv_agents.base import Agent\n"
LOAD = "agent = load_agent('mine.py:Mine')"

# Loading torch takes seconds: one process loads it, and forks for every case.
DRIVER = """
import json, os, sys, traceback, types
from kv_gym.agents import load_agent
from kv_gym.identity import identity_of
identity_of(load_agent("rkv"))  # reads once which packages are installed
sys.dont_write_bytecode = True
for folder, code, variables in json.load(sys.stdin):
    read, write = os.pipe()
    if os.fork() == 0:
        os.chdir(folder)
        os.environ.update(variables)
        sys.path[0] = ""
        space = sys.modules["__main__"] = types.ModuleType("__main__")
        vars(space).update(load_agent=load_agent, sys=sys)
        try:
            exec(code, vars(space))
            found = identity_of(space.agent)
            told = [found.sha256, found.unnamed]
        except BaseException:
            told = ["", traceback.format_exc()]
        os.write(write, json.dumps(told).encode())
        os._exit(0)
    os.close(write)
    with open(read) as pipe:
        print(pipe.read())
    os.wait()
"""


@dataclass(frozen=True)
class Case:
    """An agent.

    Attributes:
        files: Contents by path.
        code: Builds `agent`; the working directory is the folder, and the first entry of `sys.path`.
        variables: Of the environment.
    """

    files: dict[str, str]
    code: str = LOAD
    variables: Mapping[str, str] = field(default_factory=dict)


def mine(body: str, top: str = "", name: str = "Mine") -> str:
    """Source of an agent."""
    body = textwrap.indent(textwrap.dedent(body).strip(), "    ")
    return f"{HEAD}{textwrap.dedent(top)}\n\nclass {name}(Agent):\n    name = 'mine'\n{body}\n"


def identities(cases: Sequence[Case], folder: Path) -> list[tuple[str, str]]:
    """Return (hash, why it is unnamed) of each, every one in a folder and a process of its own."""
    places = []
    for number, case in enumerate(cases):
        for name, text in case.files.items():
            path = folder / str(number) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        (folder / str(number)).mkdir(exist_ok=True)
        places.append((str(folder / str(number)), textwrap.dedent(case.code), dict(case.variables)))
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], input=json.dumps(places), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def tell(named: Mapping[str, Sequence[Case]], folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Identities by name; of a pair those of (one, one again in another folder, the other)."""
    wanted = {name: [cases[0], *cases] if len(cases) == 2 else list(cases) for name, cases in named.items()}
    told = iter(identities([case for cases in wanted.values() for case in cases], folder))
    return {name: [next(told) for _ in cases] for name, cases in wanted.items()}


def assert_told_apart(found: Sequence[tuple[str, str]]) -> None:
    """Both of a pair are named: the one alike in two folders, the other otherwise."""
    one, again, other = found
    assert [why for _, why in found] == ["", "", ""]
    assert one == again != other
