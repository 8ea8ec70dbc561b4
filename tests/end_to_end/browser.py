"""Debian's Chromium, driven by playwright, and what every page must keep: no error on its console,
no report of its policy, and no request to another host."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

CHROMIUM, SHELL = shutil.which("chromium"), shutil.which("chromium-headless-shell")
"""The whole browser, and the same one without windows: a page there takes a fifth of the CPU."""
SMALL, LARGE = (320, 640), (1280, 800)
"""A phone, and a desk."""


@contextmanager
def run_chromium(is_whole: bool = True) -> Iterator[Any]:
    """Run the whole browser, or the one without windows if it is installed; skip the test where
    there is none."""
    program = CHROMIUM if is_whole else SHELL or CHROMIUM
    if program is None:
        pytest.skip("Chromium is not installed (Debian: chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            yield browser
        finally:
            browser.close()


@dataclass(eq=False)
class Visitor:
    """One window of a browser at a server; `faults` is what its pages did wrong."""

    page: Any
    base: str
    faults: list[str] = field(default_factory=list)
    refusals: int = 0
    """How many answers with an error status the test expects: Chromium prints each."""

    def __post_init__(self) -> None:
        """Listen to the page."""
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", self._check_host)
        self.page.on("dialog", self._refuse_dialog)
        self.page.set_default_timeout(15_000)

    def open(self, path: str = "") -> Any:
        """Load a page, and return it."""
        self.page.goto(f"{self.base}/ui/{path}", wait_until="domcontentloaded")
        return self.page

    def heading(self) -> str:
        """Return the text of the page's only h1."""
        assert self.page.locator("h1").count() == 1
        return " ".join(str(self.page.locator("h1").inner_text()).split())

    def assert_good(self) -> None:
        """Assert that no page did anything wrong."""
        assert not self.faults, self.faults

    def _hear(self, message: Any) -> None:
        if message.type not in ("error", "warning"):
            return
        if message.type == "error" and "Failed to load resource" in message.text and self.refusals:
            self.refusals -= 1
            return
        self.faults.append(f"{message.type}: {message.text}")

    def _refuse_dialog(self, dialog: Any) -> None:
        self.faults.append(f"a script opened a dialog: {dialog.message}")
        dialog.dismiss()

    def _check_host(self, request: Any) -> None:
        if not request.url.startswith((f"{self.base}/", "data:")):
            self.faults.append(f"a request to {request.url}")


@contextmanager
def visit(
    browser: Any, base: str, size: tuple[int, int] = LARGE, **options: Any
) -> Iterator[Visitor]:
    """Open a window at a server, and assert at its end that its pages did nothing wrong. `options`
    are playwright's of a context."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
    try:
        visitor = Visitor(context.new_page(), base)
        yield visitor
        visitor.assert_good()
    finally:
        context.close()
