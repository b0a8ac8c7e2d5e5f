"""Screenshots of a built leaderboard: the board in light and dark, the page of the first agent, and a phone.

    python tests/benchmarks/screenshots.py leaderboards/site/index.html docs/images

Needs selenium (`pip install 'kv-gym[browser]'`), chromium and chromedriver.
"""

from __future__ import annotations

import base64
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from browser import open_browser, prefer, resize, why_not

DESKTOP, PHONE = (1200, 800), (360, 740)


def shoot(browser: Any, path: Path) -> None:
    """Save the whole page, from top to bottom."""
    size = browser.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
    picture = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    path.write_bytes(base64.b64decode(picture["data"]))
    print(path)


def open_page(browser: Any, address: str, size: tuple[int, int], scheme: str = "light") -> None:
    """Load an address anew."""
    browser.get("about:blank")
    resize(browser, *size, scale=2 if size == PHONE else 1)
    prefer(browser, scheme)
    browser.get(address)


def main(page: Path, out: Path) -> None:
    """Take all of them."""
    out.mkdir(parents=True, exist_ok=True)
    address = page.resolve().as_uri()
    with tempfile.TemporaryDirectory() as profile:
        browser = open_browser(Path(profile))
        try:
            open_page(browser, address, DESKTOP)
            shoot(browser, out / "leaderboard.png")
            agent = browser.execute_script("return document.querySelector('#ranking a.name')?.hash")
            open_page(browser, address, DESKTOP, "dark")
            shoot(browser, out / "leaderboard-dark.png")
            open_page(browser, address, PHONE)
            shoot(browser, out / "leaderboard-phone.png")
            if agent:
                open_page(browser, address + agent, DESKTOP)
                shoot(browser, out / "leaderboard-agent.png")
        finally:
            browser.quit()


if __name__ == "__main__":
    if len(sys.argv) < 2 or why_not():
        raise SystemExit(why_not() or __doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "docs/images"))
