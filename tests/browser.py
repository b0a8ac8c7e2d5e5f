"""A headless Chromium that asks nobody anything."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
]  # fmt: skip
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


def why_not() -> str | None:
    """Say what is missing to drive a browser; None if nothing is."""
    try:
        from selenium.webdriver import Chrome  # noqa: F401
    except ImportError as error:  # it is not there, or a part of it is not
        return f"selenium cannot be used ({error}): pip install 'kv-gym[browser]'"
    return None if CHROMIUM and DRIVER else "chromium and chromedriver are not installed"


def open_browser(profile: Path) -> Any:
    """Start Chromium with a fresh profile; `quit()` ends it."""
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return Chrome(options=options, service=Service(DRIVER))


def resize(browser: Any, width: int, height: int, scale: float = 1.0) -> None:
    """Set the size of the page in CSS pixels; windows cannot be as narrow as a phone."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def prefer(browser: Any, scheme: str) -> None:
    """Say which colours the system prefers, `light` or `dark`."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
