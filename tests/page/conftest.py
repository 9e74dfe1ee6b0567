"""Made-up runs, their page, and Chromium that opens it from disk without a network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from testbed.leaderboard import Leaderboard
from testbed.page import page
from testbed.pipeline.gather import Gathered

from . import folders

EVIL = "<script>alert('of a run')</script></script><b>reason"
NAMES = ("chromium", "chromium-browser", "google-chrome")


class World(NamedTuple):
    """Runs of every verb with what the page is made from, and the page."""

    boards: list[Leaderboard]
    found: Gathered
    text: str
    place: Path


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Five attacks and methods at two rates, detectors of both kinds, a chat model that degrades, and a run that failed."""
    root = tmp_path_factory.mktemp("runs")
    folders.grid(root, rates=(0.1, 0.01))
    folders.scored(root)
    folders.inspected(root)
    folders.tuned(root)
    names = {"data": "digits", "model": "small_cnn", "attack": "badnets", "defence": "bro<img src=x onerror=alert(1)>ken"}
    folders.leave(root, "train", names, 0, measures={}, status="failed", reason=EVIL, command=["testbed", "train", "a=<b> c"])
    boards, found = folders.compared(root)
    text = page(boards, found.runs, list(found.not_counted()))
    place = root / "report.html"
    place.write_text(text, encoding="utf-8")
    return World(boards, found, text, place)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The system's own browser. Without one these tests fail: deselect them with -m 'not browser'."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.fail(f"none of {', '.join(NAMES)} is on the path: install one, or say -m 'not browser'")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """Opens pages from disk, offline; whatever they say on the console or ask of a network is a failure."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.said: list[str] = []
        self.contexts: list[BrowserContext] = []

    def __call__(self, place: Path, *, width: int = 1280, height: int = 900, dark: bool = False, hash: str = "") -> Page:
        scheme = "dark" if dark else "light"
        size = {"width": width, "height": height}
        context = self.browser.new_context(viewport=size, color_scheme=scheme, offline=True, accept_downloads=True)
        self.contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        page.on("request", lambda request: self._asked(request.url))
        page.goto(place.as_uri() + hash)
        return page

    def _asked(self, address: str) -> None:
        self.said += [] if address.startswith(("file:", "data:", "blob:")) else [address]

    def close(self) -> None:
        for context in self.contexts:
            context.close()
        assert self.said == []


@pytest.fixture
def opened(chromium: Browser) -> Iterator[Opened]:
    """Opens pages of this test alone."""
    opener = Opened(chromium)
    yield opener
    opener.close()


@pytest.fixture(scope="module")
def shared(chromium: Browser, world: World) -> Iterator[tuple[Opened, Page]]:
    """The page of the world, opened once: loading it takes longer than most of what is tried on it."""
    opener = Opened(chromium)
    yield opener, opener(world.place)
    opener.close()


AS_OPENED = """() => {
    location.hash = "";
    for (const form of document.querySelectorAll("form.filters")) {
        form.reset();
        form.dispatchEvent(new Event("input", { bubbles: true }));
    }
    for (const select of document.querySelectorAll("select.mark")) {
        select.value = "";
        select.dispatchEvent(new Event("change", { bubbles: true }));
    }
    scrollTo(0, 0);
}"""


@pytest.fixture
def shown(shared: tuple[Opened, Page]) -> Iterator[Page]:
    """The page of the world without filter, mark or open run, at the width of a desk; it must have nothing to say."""
    opener, page = shared
    page.emulate_media(color_scheme="light", reduced_motion="no-preference")
    page.evaluate(AS_OPENED)
    yield page
    assert opener.said == []
