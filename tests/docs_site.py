"""The documentation's site, built once for all tests, and its links."""

from __future__ import annotations

import html
import posixpath
import re
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).parents[1]


def build(folder: Path) -> Site:
    """Build into `folder/site`; warnings are errors."""
    for command in (
        [sys.executable, str(ROOT / "docs" / "_site" / "stage.py"), str(folder)],
        [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file", "mkdocs.yml"],
    ):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return Site(folder / "site")


class Site:
    """Pages by their paths below the site.

    Attributes:
        folder: Where it was built.
        pages: HTML by path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pages = {
            path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
            for path in sorted(folder.rglob("*.html"))
            if path.name != "404.html"
            and "leaderboards/site" not in path.as_posix()  # the board makes its links itself
        }

    @cached_property
    def anchors(self) -> dict[str, set[str]]:
        """What can be jumped to, by page."""
        return {name: set(re.findall(r'\b(?:id|name)="?([^"\s>]+)', text)) for name, text in self.pages.items()}

    def links(self, page: str) -> list[str]:
        """Addresses that a page links to or loads."""
        found = re.findall(r'\b(?:href|src)=(?:"([^"]*)"|([^\s">]+))', self.pages[page])
        return [html.unescape(quoted or bare) for quoted, bare in found]

    def dead(self, page: str) -> list[str]:
        """Links of a page to the site itself that lead nowhere."""
        return [link for link in self.links(page) if not re.match(r"[a-z]+:|//", link) and not self._leads(page, link)]

    def _leads(self, page: str, link: str) -> bool:
        path, _, anchor = link.partition("#")
        goal = posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(path))) if path else page
        goal = posixpath.join(goal, "index.html") if (self.folder / goal).is_dir() else goal
        if not (self.folder / goal).is_file():
            return False
        return not anchor or goal not in self.pages or unquote(anchor) in self.anchors[goal]
