"""The site is built without a warning, no link leads nowhere, and it can be read on a phone and in the dark."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import open_browser, prefer, resize, why_not
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
    navigation = site.pages["index.html"]
    written = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"README"}
    assert not [name for name in written if f'"{name}.html"' not in navigation and f"={name}.html" not in navigation], (
        "name it in the nav of mkdocs.yml"
    )


def test_all_agents_have_an_entry_with_its_source(site: Site) -> None:
    page = "agents/list.html"
    assert not agent_entries().keys() - site.anchors[page]
    assert "../source/agents/kv_agents/heuristics/rkv.py.html" in site.links(page)
    assert "https://arxiv.org/abs/2505.24133" in site.links(page)


def test_what_leaves_the_folder_has_a_page_here(site: Site) -> None:
    assert "source/examples/index.html" in site.links("libraries.html")
    assert "source/kv_gym/leaderboard/protocol.yaml.html" in site.links("submitting.html")
    assert "KVEvictVectorEnv" in site.pages["api/environments.html"]
    assert "<td>" in site.pages["training.html"].split("Weight of the divergence from the start")[0]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium; one for all tests, because it takes seconds to start."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    driver = open_browser(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


def show(browser: Any, site: Site, page: str, size: tuple[int, int], scheme: str) -> None:
    resize(browser, *size)
    prefer(browser, scheme)
    browser.get("about:blank")
    browser.get((site.folder / page).as_uri())


@pytest.mark.parametrize("page", SHOWN)
def test_a_page_fits_on_a_phone(browser: Any, site: Site, page: str) -> None:
    show(browser, site, page, PHONE, "light")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE[0]


def test_dark_where_the_system_is_dark_and_by_hand(browser: Any, site: Site) -> None:
    def darkness() -> float:
        colour = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        return 1 - sum(float(part) for part in re.findall(r"[\d.]+", colour)[:3]) / (3 * 255)

    show(browser, site, "mdp.html", DESKTOP, "dark")
    assert darkness() > 0.8
    show(browser, site, "mdp.html", DESKTOP, "light")
    assert darkness() < 0.2
    browser.find_element("css selector", "label[for=__palette_1]:not([hidden])").click()
    assert darkness() > 0.8
