"""The site is built without a warning, no link leads nowhere, and it can be read on a phone and in the dark."""

from __future__ import annotations

import functools
import os
import re
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from browser import prefer, resize
from docs_site import ROOT, Site, build
from filelock import FileLock

from kv_gym.agents import agent_entries
from kv_gym.registry import env_ids

PHONE, DESKTOP = (390, 844), (1280, 900)
SHOWN = (
    "index.html", "tutorial.html", "attention.html", "training.html", "results.html", "models.html", "agents/list.html",
    "envs/KVEvict-AIME-v0.html", "api/engine.html", "source/examples/ppo_sb3.py.html",
    "source/leaderboards/results/domains/index.html",
)  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The site; workers of one test run share it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "docs-site"
    with FileLock(f"{folder}.lock"):
        if (folder / "built").exists():
            return Site(folder / "site")
        folder.mkdir(exist_ok=True)
        made = build(folder)
        (folder / "built").touch()
        return made


def test_no_link_leads_nowhere(site: Site) -> None:
    dead = {page: found for page in site.pages if (found := site.dead(page))}
    assert not dead and sum(len(site.links(page)) for page in site.pages) > 5000


def test_a_dead_link_is_found(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    text = '<a href="mdp.html#no-such">a</a><a href=none.html>b</a><a href=mdp.html#the-observation>c</a><a href="#x">'
    monkeypatch.setitem(site.pages, "limits.html", text)
    assert site.dead("limits.html") == ["mdp.html#no-such", "none.html", "#x"]


def test_nothing_is_loaded_from_elsewhere(site: Site) -> None:
    loaded = re.compile(r"<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//(?!example\.com)[^\s\">]+")
    assert not [found for text in site.pages.values() for found in loaded.findall(text) if "canonical" not in found]


def test_every_page_of_the_folder_is_there(site: Site) -> None:
    missing = [
        path.name
        for path in (ROOT / "docs").rglob("*.md")
        if path.name != "README.md" and str(path.relative_to(ROOT / "docs").with_suffix(".html")) not in site.pages
    ]
    assert not missing and {f"envs/{name}.html" for name in env_ids()} < site.pages.keys()
    navigation = re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    written = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert not written - set(navigation), "name it in the nav of mkdocs.yml"


def test_all_agents_have_an_entry_with_its_source(site: Site) -> None:
    page = "agents/list.html"
    assert not agent_entries().keys() - site.anchors[page]
    assert "../source/agents/kv_agents/heuristics/rkv.py.html" in site.links(page)
    assert "https://arxiv.org/abs/2505.24133" in site.links(page)


def test_what_leaves_the_folder_has_a_page_here(site: Site) -> None:
    assert "source/examples/index.html" in site.links("libraries.html")
    assert "source/kv_gym/leaderboard/protocol.yaml.html" in site.links("submitting.html")
    assert "<code>|x|</code>" in site.pages["grading.html"], "GitHub wants bars in tables escaped, the site does not"
    assert "KVEvictVectorEnv" in site.pages["api/environments.html"]
    assert "<td>" in site.pages["training.html"].split("Weight of the divergence from the start")[0]


@pytest.fixture(scope="module")
def address(site: Site) -> Iterator[str]:
    """Where the site is served: its search reads no files."""
    handler = functools.partial(Quiet, directory=str(site.folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and logs nothing."""

    def log_message(self, *arguments: Any) -> None:
        pass


def show(browser: Any, address: str, size: tuple[int, int], scheme: str) -> None:
    resize(browser, *size)
    prefer(browser, scheme)
    browser.get("about:blank")
    browser.get(address)


@pytest.mark.parametrize("page", SHOWN)
def test_a_page_fits_on_a_phone(browser: Any, address: str, page: str) -> None:
    show(browser, f"{address}/{page}", PHONE, "light")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE[0]
    assert browser.get_log("browser") == []


def test_dark_where_the_system_is_dark_and_by_hand(browser: Any, address: str) -> None:
    def brightness(what: str) -> float:
        """Of the text or of what lies behind it, 0 to 1."""
        script = "return getComputedStyle(document.body)[arguments[0]]"
        red, green, blue, *_ = (float(part) for part in re.findall(r"[\d.]+", browser.execute_script(script, what)))
        return (red + green + blue) / 3 / 255

    show(browser, f"{address}/mdp.html", DESKTOP, "dark")
    assert brightness("backgroundColor") < 0.2
    show(browser, f"{address}/mdp.html", DESKTOP, "light")
    assert brightness("backgroundColor") > 0.8
    for _ in range(2):  # from what the system prefers to light, and on to dark
        browser.find_element("css selector", "form[data-md-component=palette] label:not([hidden])").click()
    assert brightness("backgroundColor") < 0.2


def test_search_finds_a_knob(browser: Any, address: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    show(browser, f"{address}/index.html", DESKTOP, "light")
    browser.find_element("css selector", ".md-search__button").click()
    browser.switch_to.active_element.send_keys("golden_rounds")
    assert WebDriverWait(browser, 20).until(lambda _: browser.execute_script(FOUND, "training.html"))


FOUND = """
const roots = [document, ...[...document.querySelectorAll("*")].map((e) => e.shadowRoot).filter(Boolean)];
return roots.some((root) => [...root.querySelectorAll("a")].some((a) => a.href.includes(arguments[0])
    && a.closest("nav, .md-tabs, .md-sidebar, article") === null));
"""
