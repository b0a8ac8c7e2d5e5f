"""Write the sources of the documentation's site: `python docs/_site/stage.py build`.

    README.md, docs/, docstrings of agents, names of modules -> plain Markdown and mkdocs.yml, ready to build

Every page is known by its place in the repository, so links read the same on GitHub and on the site. What a page links
to outside docs/ gets a page of its own below source/: Markdown as it is, other text as code, a folder as a list. The
builder needs no plug-in for any of that, so it can be exchanged.
"""

from __future__ import annotations

import ast
import json
import posixpath
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RENAMED = {
    "README.md": "index.md",
    "docs/README.md": "pages.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "CODE_OF_CONDUCT.md": "conduct.md",
    "SECURITY.md": "security.md",
}
AGENTS = "docs/agents/list.md"
TRAINING = "docs/training.md"
KNOBS = re.compile(r"<!-- knobs: (\w+) -->")
COPIED = (".png", ".html", ".css")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json", ".jsonl": "json", ".cff": "yaml"}
MOST_BYTES = 200_000  # of a file that is shown
BAR_ROW, CODE = re.compile(r"^\|.*$", re.M), re.compile(r"`[^`\n]+`")
LINK = re.compile(r"(^ *(`{3,}).*?^ *\2$|`[^`\n]*`)|(?<=\]\()([^)\s]+)(?=\))", re.M | re.S)
API = {
    "Environments": (
        "kv_gym.envs.eviction_env", "kv_gym.envs.vector_env", "kv_gym.envs.wrappers", "kv_gym.envs.acting",
        "kv_gym.envs.datasets", "kv_gym.config", "kv_gym.registry", "kv_gym.errors",
    ),
    "Agents": (
        "kv_agents.base", "kv_agents.observation", "kv_agents.golden", "kv_agents.heuristics.window",
        "kv_agents.learned.agents", "kv_agents.learned.scorer", "kv_agents.learned.inputs",
        "kv_agents.learned.policy", "kv_agents.learned.checkpoints", "kv_gym.agents",
    ),
    "Engine": (
        "kv_gym.engine.slots", "kv_gym.engine.episodes", "kv_gym.engine.eviction", "kv_gym.engine.features",
        "kv_gym.engine.golden", "kv_gym.engine.shadow", "kv_gym.engine.measures", "kv_gym.engine.reference",
        "kv_gym.engine.memory", "kv_gym.rewards",
    ),
    "Frozen LLMs": (
        "kv_gym.llm.loading", "kv_gym.llm.frozen", "kv_gym.llm.cache", "kv_gym.llm.accumulators",
        "kv_gym.llm.statistics", "kv_gym.llm.check",
    ),
    "Problems": (
        "kv_gym.problems.base", "kv_gym.problems.worked", "kv_gym.problems.formats", "kv_gym.problems.grading.answers",
    ),
    "Training": (
        "kv_agents.training.distill", "kv_agents.training.grpo", "kv_agents.training.ppo", "kv_agents.training.sb3",
        "kv_agents.training.trainings", "kv_agents.training.work", "kv_gym.commands.train",
    ),
    "Benchmark": (
        "kv_gym.bench.plan", "kv_gym.bench.benchmark", "kv_gym.bench.rows", "kv_gym.bench.report",
        "kv_gym.bench.intervals", "kv_gym.bench.versus", "kv_gym.bench.agreement",
    ),
    "Leaderboard": ("kv_gym.leaderboard.submission", "kv_gym.leaderboard.verify", "kv_gym.leaderboard.rank"),
    "Pictures": ("kv_gym.show.recorder", "kv_gym.show.recording", "kv_gym.show.rendering"),
}  # fmt: skip
"""Modules whose docstrings are the API reference, by page."""


def main(folder: Path) -> None:
    """Write sources and configuration of the site."""
    shutil.rmtree(folder / "docs", ignore_errors=True)
    pages, copied = sources()
    for name, text in pages.items():
        write(folder / "docs" / place(name), for_tables(with_links(name, text)))
    for name in copied:
        write(folder / "docs" / place(name), (ROOT / name).read_bytes())
    write(folder / "mkdocs.yml", configuration())


def configuration() -> str:
    """mkdocs.yml with the navigation of what is made here, for any folder."""
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    parts = {"Environments": env_pages(), "API": ["api/README.md", *map(api_page, API)]}
    changes = {
        f"- {title}: []": f"- {title}:" + "".join(f"\n      - {name}" for name in parts[title]) for title in parts
    }
    changes["paths: [., agents]"] = f"paths: {json.dumps([str(ROOT), str(ROOT / 'agents')])}"
    for before, after in changes.items():
        if before not in config:
            raise SystemExit(f"mkdocs.yml has no {before!r}")
        config = config.replace(before, after)
    return config


def sources() -> tuple[dict[str, str], list[str]]:
    """(Text of every page, files that are copied), by their places in the repository."""
    from kv_gym.commands.agent_pages import render_agents

    written = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))]
    pages = {name: (ROOT / name).read_text(encoding="utf-8") for name in [*RENAMED, *written]}
    pages[TRAINING] = KNOBS.sub(lambda match: knobs(match[1]), pages[TRAINING])
    pages[AGENTS] = render_agents(in_repository)
    pages |= {f"docs/{name}": text for name, text in api_pages().items()}
    copied = [path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*") if path.suffix in COPIED]
    queue = list(pages)
    while queue:
        page = queue.pop()
        for target in targets(pages[page]):
            name = page_of(resolve(page, target))
            if name.startswith("docs/") or name in pages or name in copied:
                continue
            if name.endswith(COPIED):
                copied.append(name)
            else:
                pages[name] = shown(name)
                queue.append(name)
    return pages, copied


def targets(text: str) -> list[str]:
    """The files that the links of a page lead to."""
    found = (match[3].partition("#")[0] for match in LINK.finditer(text) if match[3] and is_relative(match[3]))
    return list(found)


def for_tables(text: str) -> str:
    """Bars of code in tables without the escape that GitHub wants there."""
    return BAR_ROW.sub(lambda row: CODE.sub(lambda code: code[0].replace(r"\|", "|"), row[0]), text)


def with_links(page: str, text: str) -> str:
    """Turn links between places in the repository into links between pages of the site."""
    here = posixpath.dirname(place(page)) or "."

    def turn(target: str) -> str:
        path, hash_, anchor = target.partition("#")
        return posixpath.relpath(place(page_of(resolve(page, path))), here) + hash_ + anchor

    return LINK.sub(lambda match: match[1] or (turn(match[3]) if is_relative(match[3]) else match[3]), text)


def write(path: Path, content: str | bytes) -> None:
    """Write a file and the folders that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


# --- Places ------------------------------------------------------------------------------------------------------


def place(name: str) -> str:
    """Where a file of the repository is in the site's sources."""
    if name in RENAMED:
        return RENAMED[name]
    if name.startswith("docs/"):
        return name.removeprefix("docs/")
    shown = name.endswith((".md", *COPIED))
    return f"source/{name}" if shown else f"source/{name}.md"


def page_of(name: str) -> str:
    """What a link to a place opens: of a folder its README.md, even where there is none yet."""
    return f"{name}/README.md" if (ROOT / name).is_dir() else name


def resolve(page: str, target: str) -> str:
    """The place that a link of a page leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))


def is_relative(target: str) -> bool:
    """Whether a link leads to a file of the repository."""
    return not re.match(r"[a-z]+:|#|/", target)


def in_repository(path: Path) -> str | None:
    """A link to a source file from the page of agents; None for other packages."""
    inside = path.is_relative_to(ROOT) and ".venv" not in path.parts
    return f"../../{path.relative_to(ROOT).as_posix()}" if inside else None


# --- Pages -------------------------------------------------------------------------------------------------------


def shown(name: str) -> str:
    """A file or folder of the repository as Markdown."""
    path = ROOT / name
    if not path.exists() and path.name == "README.md":
        return folder_page(path.parent)
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    if path.suffix == ".ipynb":
        return notebook_page(name, json.loads(text))
    return f"# {path.name}\n\n`{name}`\n\n{fence(text, LANGUAGES.get(path.suffix, 'text'))}"


def folder_page(folder: Path) -> str:
    """What a folder holds."""
    lines = [f"# {folder.relative_to(ROOT).as_posix()}", ""]
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "_")):
            continue
        readable = path.is_dir() or (path.stat().st_size < MOST_BYTES and path.suffix not in (".gz", ".xz"))
        told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) if path.suffix == ".py" else None
        about = f": {told.partition(chr(10))[0]}" if told else ""
        lines.append((f"- [{path.name}]({path.name})" if readable else f"- {path.name}") + about)
    return "\n".join(lines)


def notebook_page(name: str, notebook: dict[str, Any]) -> str:
    """The cells of a notebook, without what they printed."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else fence(source, "python"))
    return "\n\n".join([*parts, f"`{name}`"])


def fence(text: str, language: str) -> str:
    """A block of code, fenced by more backticks than it holds in a row."""
    bars = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{bars}{language}\n{text.rstrip()}\n{bars}"


def env_pages() -> list[str]:
    """The pages of the environments."""
    return ["envs/README.md", *sorted(f"envs/{path.name}" for path in ROOT.glob("docs/envs/KV*.md"))]


def knobs(name: str) -> str:
    """The knobs of a training as a table."""
    from kv_gym.commands.pages import plain_doc, table
    from kv_gym.commands.train import GROUP
    from kv_gym.registry import plugins

    recipe = plugins(GROUP, "training")[name].load().recipe
    told = plain_doc(recipe).partition("Attributes:\n")[2]
    pieces = re.split(r"^    (\w[\w, ]*): ", told, flags=re.M)[1:]
    meaning = {
        field: " ".join(text.split())
        for fields, text in zip(pieces[::2], pieces[1::2], strict=True)
        for field in fields.split(", ")
    }
    rows = [(f"`{field}`", f"`{value!r}`", meaning[field]) for field, value in vars(recipe()).items()]
    return table(("knob", "default", "meaning"), rows)


def api_page(title: str) -> str:
    """Where a page of the API reference is."""
    return f"api/{title.lower().replace(' ', '-')}.md"


def api_pages() -> dict[str, str]:
    """The API reference: mkdocstrings fills it in."""
    index = ["# API reference", "", "From docstrings; what begins with an underscore is left out.", ""]
    pages = {}
    for title, modules in API.items():
        index.append(f"- [{title}]({posixpath.basename(api_page(title))}): {listed(modules)}")
        pages[api_page(title)] = "\n\n".join([f"# {title}", *(f"::: {module}" for module in modules)])
    return {"api/README.md": "\n".join(index), **pages}


def listed(names: Iterable[str]) -> str:
    """Names as code, with commas."""
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
