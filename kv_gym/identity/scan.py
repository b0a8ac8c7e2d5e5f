"""What one source file reaches for: modules, data files, environment variables; and what nobody can follow."""

from __future__ import annotations

import ast
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

DATA = {
    ".bin", ".csv", ".h5", ".ini", ".json", ".jsonl", ".npy", ".npz", ".parquet", ".pickle", ".pkl", ".pt", ".pth",
    ".safetensors", ".toml", ".tsv", ".txt", ".yaml", ".yml",
}  # fmt: skip
"""Endings of files that decide something if a source names them."""
IMPORTERS = {"import_module", "__import__"}
LOADERS = {"spec_from_file_location", "SourceFileLoader", "exec_module", "run_path", "run_module", "load_source"}
RUNNERS = {"exec", "eval"}  # of a method of this name, such as torch's, nothing is known to be run
MAX_NAME = 255  # characters of a file's name


@dataclass(frozen=True)
class Opaque:
    """Something that cannot be followed.

    Attributes:
        what: For people, with its line.
        function: The outermost function or method that it happens in, `Mine.score`; "" if the module itself does it.
    """

    what: str
    function: str


@dataclass
class Scan:
    """What a source reaches for.

    Attributes:
        imports: Modules; of `from a import b`, both a and a.b.
        data: Names of data files or patterns of them, as the source writes them.
        variables: Environment variables.
        opaque: What cannot be followed.
        lazy: Whether modules are imported when they are asked for (a module's `__getattr__`).
    """

    imports: dict[str, None] = field(default_factory=dict)
    data: set[str] = field(default_factory=set)
    variables: set[str] = field(default_factory=set)
    opaque: list[Opaque] = field(default_factory=list)
    lazy: bool = False


def scan(importer: str, file: Path) -> Scan:
    """Read a source; one that is none reaches for nothing.

    Args:
        importer: The name of its module: relative imports start there.
        file: Where it lies.
    """
    try:
        return _scan(importer, file, file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Scan()


@functools.lru_cache(maxsize=512)
def _scan(importer: str, file: Path, text: str) -> Scan:
    try:
        tree = ast.parse(text)
    except (SyntaxError, RecursionError):
        return Scan()
    package = importer if file.name == "__init__.py" else importer.rpartition(".")[0]
    return _Reader(tree, package, file.stem).found


class _Reader:
    def __init__(self, tree: ast.Module, package: str, stem: str) -> None:
        self.package, self.stem, self.found = package, stem, Scan()
        nodes = list(ast.walk(tree))
        self.outer = {child: node for node in nodes for child in ast.iter_child_nodes(node)}
        self.texts = _constants(nodes)
        self.aliases = {
            alias.asname: alias.name
            for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names if alias.asname
        }  # fmt: skip
        self.found.lazy = any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body)
        for node in nodes:
            self._read(node)

    def _read(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            self._imports(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = self._absolute("." * node.level + (node.module or ""), self.package)
            if base:
                self._imports([base, *(f"{base}.{alias.name}" for alias in node.names if alias.name != "*")])
        elif isinstance(node, ast.Call):
            self._call(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            self._data(node.value)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            self._joined([one for one in ast.walk(node) if isinstance(one, ast.Constant)])
        if self._called(node) == "environ" and isinstance(node, ast.Attribute | ast.Name):
            self._environment(node)

    def _imports(self, names: Iterator[str] | list[str]) -> None:
        self.found.imports |= dict.fromkeys(names)

    def _absolute(self, name: str, package: str) -> str:
        level = len(name) - len(name.lstrip("."))
        if not level:
            return name
        parents = package.split(".")[: len(package.split(".")) - level + 1]
        return ".".join([part for part in [*parents, name.lstrip(".")] if part])

    def _called(self, node: ast.AST) -> str:
        """The last part of a name: `import_module` of `importlib.import_module` and of what it was imported as."""
        if isinstance(node, ast.Attribute):
            return node.attr
        return self.aliases.get(node.id, node.id) if isinstance(node, ast.Name) else ""

    def _text(self, node: ast.AST | None) -> list[str]:
        """Texts that an expression may be; [] where that cannot be told."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return [node.value]
        return self.texts.get(node.id, []) if isinstance(node, ast.Name) else []

    def _call(self, node: ast.Call) -> None:
        name = self._called(node.func)
        names = self._text(node.args[0]) if node.args else []
        if name in IMPORTERS:
            package = self._text(node.args[1])[:1] if name == "import_module" and len(node.args) > 1 else []
            self._imports([self._absolute(one, (package or [self.package])[0]) for one in names])
            if not names:
                self._cannot("imports a module whose name is no constant", node)
        elif name in LOADERS or (name in RUNNERS and isinstance(node.func, ast.Name) and not names):
            self._cannot(f"runs code by {name}()", node)
        elif name == "getenv":
            self._variables(names, node)
        self._joined([one for one in node.args if isinstance(one, ast.Constant)])

    def _environment(self, node: ast.AST) -> None:
        """Find which variable `environ` is asked for: `environ[x]`, `environ.get(x)`, `x in environ`."""
        outer = self.outer[node]
        if isinstance(outer, ast.alias | ast.ImportFrom):
            return
        wanted: ast.AST | None = outer.slice if isinstance(outer, ast.Subscript) else None
        if isinstance(outer, ast.Compare):
            wanted = outer.left
        call = self.outer.get(outer)
        if isinstance(outer, ast.Attribute) and isinstance(call, ast.Call) and call.args:
            wanted = call.args[0]
        self._variables(self._text(wanted), node)

    def _variables(self, names: list[str], node: ast.AST) -> None:
        self.found.variables |= set(names)
        if not names:
            self._cannot("reads environment variables whose names are no constants", node)

    def _cannot(self, what: str, node: ast.AST) -> None:
        self.found.opaque.append(Opaque(f"{what} (line {getattr(node, 'lineno', 0)})", self._function(node)))

    def _function(self, node: ast.AST) -> str:
        names: list[str] = []
        while node in self.outer:
            inner, node = node, self.outer[node]
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and inner in node.body:
                names = [node.name]
            elif isinstance(node, ast.ClassDef) and names:
                names.append(node.name)
        return ".".join(reversed(names))

    def _joined(self, parts: list[ast.Constant]) -> None:
        """`HERE / "data" / "table.json"` and `join(HERE, "data", "table.json")`, without HERE."""
        parts = sorted(parts, key=lambda part: (part.lineno, part.col_offset))
        self._data("/".join(part.value for part in parts if isinstance(part.value, str)))

    def _data(self, name: str) -> None:
        """Note the name of a data file; an ending alone is meant for the source's own name (`with_suffix`)."""
        if name in DATA:
            name = self.stem + name
        if os.path.splitext(name)[1] in DATA and len(name) <= MAX_NAME and name.isprintable():
            self.found.data.add(name)


def _constants(nodes: list[ast.AST]) -> dict[str, list[str]]:
    """Names that are nothing but constant texts in a whole file, with these."""
    found: dict[str, list[str]] = {}
    known: set[ast.AST] = set()
    for node in nodes:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            names, texts = [one for one in node.targets if isinstance(one, ast.Name)], [node.value.value]
        elif isinstance(node, ast.For) and isinstance(node.target, ast.Name):
            items = node.iter.elts if isinstance(node.iter, ast.Tuple | ast.List) else []
            texts = [one.value for one in items if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            names = [node.target] if texts and len(texts) == len(items) else []
        else:
            continue
        for name in names:
            found.setdefault(name.id, []).extend(texts)
            known.add(name)
    other = {
        node.id
        for node in nodes
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load) and node not in known
    }
    other |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    return {name: texts for name, texts in found.items() if name not in other}
