# SPDX-License-Identifier: Apache-2.0
"""A real browser for tests: Debian's Chromium without a screen, driven through chromedriver."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

SECONDS = 30.0
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromium-driver")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
)


class Browser:
    """A browser, and what tests ask of it; what is waited for comes within 30 seconds or the test fails."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        self.driver.get(url)

    def one(self, selector: str) -> WebElement:
        """Wait for an element that is shown."""
        return self.until(lambda: next((each for each in self.all(selector) if each.is_displayed()), None))

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements("css selector", selector)

    def text(self, selector: str) -> str:
        """Give the text that an element has now, empty when there is none."""
        return str(self.run("return document.querySelector(arguments[0])?.textContent ?? ''", selector))

    def until(self, condition: Callable[[], Any]) -> Any:
        """Wait until a condition gives something true, and give that."""
        return WebDriverWait(self.driver, SECONDS, 0.05).until(lambda _: condition())

    def shows(self, selector: str, *parts: str) -> str:
        """Wait until an element's text has all of ``parts``."""
        try:
            self.until(lambda: all(part in self.text(selector) for part in parts))
        except TimeoutException:
            raise AssertionError(f"{selector} shows {self.text(selector)!r}, not {parts}") from None
        return self.text(selector)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def complaints(self) -> list[str]:
        """Give what the browser's console got since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@contextmanager
def browser() -> Iterator[Browser]:
    """Run a browser that knows nothing yet."""
    assert CHROMIUM
    assert DRIVER
    with tempfile.TemporaryDirectory(prefix="fisk-browser-", ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        try:
            yield Browser(driver)
        finally:
            driver.quit()
