"""The house in wings: who may import whom. Every import counts, also those inside functions and for type checkers."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = (
    {"errors"},
    {"registry", "files"},
    {"rewards"},
    {"config"},
    {"problems"},
    {"llm"},
    {"engine"},
    {"identity"},
    {"agents"},
    {"bench"},
    {"leaderboard", "show"},
    {"envs"},
    {"commands"},
)
"""Wings of kv_gym from the ground up. kv_agents stands on all of them."""
MOST_FILES = 8  # at the top level of kv_gym


def module_name(path: Path, source: Path) -> str:
    """The name that a file is imported by."""
    return ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")


FILES = {
    module_name(path, source): path
    for source, package in ((ROOT, "kv_gym"), (ROOT / "agents", "kv_agents"))
    for path in sorted((source / package).rglob("*.py"))
}


def imported(tree: ast.AST) -> set[str]:
    """Modules of ours that a file imports: `from a import b` is a.b where that is a file, else a."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute"
            names |= {full if (full := f"{node.module}.{alias.name}") in FILES else node.module for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in DYNAMIC:
            assert not isinstance(node.args[0], ast.Constant), f"{ast.unparse(node)}: write an import statement"
    return names


DYNAMIC = ("importlib.import_module", "import_module", "__import__")
IMPORTS = {name: imported(ast.parse(path.read_text())) for name, path in FILES.items()}


def floor(module: str) -> tuple[int, str]:
    """(How high a module stands, its wing)."""
    package, *rest = module.split(".")
    if package == "kv_agents":
        return len(FLOORS), package
    if not rest:
        return 0, ""  # kv_gym itself: its version
    known = {wing: i for i, wings in enumerate(FLOORS) for wing in wings}
    assert rest[0] in known, f"{module} is in no wing: move it into one, or say in FLOORS what it stands on"
    return known[rest[0]], rest[0]


def may_import(importer: str, module: str) -> bool:
    """Whether an arrow stays inside its wing or runs down."""
    (here, wing), (there, other) = floor(importer), floor(module)
    return wing == other or there < here


@pytest.mark.parametrize("module", FILES)
def test_no_arrow_runs_back_up(module: str) -> None:
    wrong = [name for name in sorted(IMPORTS[module] & FILES.keys()) if not may_import(module, name)]
    assert module == "kv_gym" or not wrong, (
        f"{module} imports {', '.join(wrong)}, which stand above it or beside it. The order is "
        f"{' < '.join('/'.join(sorted(wings)) for wings in FLOORS)} < kv_agents: move the shared part down, or let "
        "the upper one hand over what the lower one needs."
    )


def test_kv_gym_itself_needs_only_the_ground_floor() -> None:
    assert IMPORTS["kv_gym"] & FILES.keys() <= {"kv_gym.registry"}, "importing kv_gym must stay quick"


def test_there_is_no_circle() -> None:
    graph = {name: imports & FILES.keys() - {name} for name, imports in IMPORTS.items()}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise AssertionError(f"{error.args[1]} import each other: give what both need its own file") from error
    assert order and order.index("kv_gym.llm.cache") < order.index("kv_gym.engine.episodes")


def test_only_commands_know_the_command_line() -> None:
    wrong = [name for name, imports in IMPORTS.items() if {"typer", "click"} & {i.split(".")[0] for i in imports}]
    assert [name for name in wrong if not name.startswith("kv_gym.commands.")] == []


def test_the_top_level_stays_small() -> None:
    files = [path.name for path in (ROOT / "kv_gym").glob("*.py")]
    assert len(files) <= MOST_FILES, f"{files}: put new files into a wing"


@pytest.mark.parametrize(
    "line",
    ["from . import worked", "from .. import commands", 'importlib.import_module("typer")', '__import__("typer")'],
)
def test_an_import_that_cannot_be_followed_is_refused(line: str) -> None:
    with pytest.raises(AssertionError, match=r"absolute|write an import statement"):
        imported(ast.parse(line))


def test_a_wing_is_known_and_the_walk_finds_the_files() -> None:
    assert {floor(name)[1] for name in FILES} >= {"kv_agents", "engine", "commands", "problems"}
    assert "kv_gym.engine.slots" in IMPORTS["kv_agents.base"]
    assert not may_import("kv_gym.problems.base", "kv_gym.llm.cache")
    assert not may_import("kv_gym.show.frames", "kv_gym.leaderboard.rank")
    assert may_import("kv_gym.envs.core", "kv_gym.show.frames") and not may_import("kv_gym.agents", "kv_agents.base")
