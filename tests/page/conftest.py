"""Made-up runs, their page, and Chromium that opens it from disk without a network."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

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


Opened = Callable[..., Page]


@pytest.fixture
def opened(chromium: Browser) -> Iterator[Opened]:
    """Opens a page from disk, offline; whatever it says on the console or asks of a network is a failure at the end."""
    said: list[str] = []
    contexts = []

    def open_page(place: Path, *, width: int = 1280, height: int = 900, dark: bool = False, hash: str = "") -> Page:
        scheme = "dark" if dark else "light"
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, offline=True, accept_downloads=True
        )
        contexts.append(context)
        shown = context.new_page()
        shown.set_default_timeout(20_000)
        shown.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        shown.on("pageerror", lambda error: said.append(f"error: {error}"))
        shown.on(
            "request", lambda request: said.extend([] if request.url.startswith(("file:", "data:", "blob:")) else [request.url])
        )
        shown.goto(place.as_uri() + hash)
        return shown

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
