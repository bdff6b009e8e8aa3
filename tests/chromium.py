"""A headless Chromium for tests: Debian's, with its driver (tests/install_chromium)."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # which root in a container has not
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--window-size=1280,900",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # no network
)


@contextmanager
def chromium() -> Iterator[Chrome]:
    """A browser. Skips the test where there is none, which on Linux fails it in CI (CI=true)."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        reason = "no chromium and chromedriver here: tests/install_chromium installs Debian's"
        if os.environ.get("CI") == "true" and sys.platform == "linux":
            pytest.fail(reason)
        pytest.skip(reason)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # It needs a home that it may write to, and makes a socket, whose path has to be short.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        service = webdriver.ChromeService(
            driver, env=os.environ | {"HOME": folder, "TMPDIR": folder}
        )
        with webdriver.Chrome(options, service) as browser:
            yield browser
