"""The page in a real browser: sort, filter, open a run, go back, keep the numbers; on a wide and on a narrow screen."""

from __future__ import annotations

import csv
import io
import re
import time
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from testbed.page import page
from testbed.page.run import anchor
from testbed.statistics import wilson

from . import folders
from .conftest import EVIL, Opened, World

pytestmark = pytest.mark.browser


def column(table: Locator, name: str) -> list[str]:
    """The sortable values of a column, from top to bottom, of the rows that are shown."""
    return table.evaluate(
        """(table, name) => {
            const place = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent.startsWith(name));
            const rows = [...table.tBodies[0].rows].filter((row) => !row.hidden);
            return rows.map((row) => row.cells[place].dataset.v ?? row.cells[place].dataset.t ?? row.cells[place].textContent);
        }""",
        name,
    )


def drawn(shown: Page, number: int) -> None:
    """Every chart was scrolled to, and drawn."""
    for place in range(number):
        chart = shown.locator(".chart").nth(place)
        chart.scroll_into_view_if_needed()
        expect(chart).to_have_attribute("data-drawn", "yes")
        assert chart.locator("svg").count() == 1


def test_every_column_sorts_both_ways_with_the_keyboard_too(shown: Page) -> None:
    table = shown.locator("#cells-0")
    button = table.get_by_role("button", name="attack success, % ↓", exact=True)
    button.click()
    up = column(table, "attack success")
    numbers = [float(value) for value in up if value]
    assert len(numbers) == 50 and numbers == sorted(numbers) and up[len(numbers) :] == [""]  # the cell that failed comes last
    expect(button.locator("xpath=..")).to_have_attribute("aria-sort", "ascending")
    button.press("Enter")
    down = column(table, "attack success")
    assert [float(value) for value in down if value] == numbers[::-1] and down[-1] == ""
    expect(button.locator("xpath=..")).to_have_attribute("aria-sort", "descending")
    table.get_by_role("button", name="method").press("Space")
    assert (names := column(table, "method")) == sorted(names)
    assert table.locator("th[aria-sort]:not([aria-sort=none])").count() == 1


def test_filters_hold_together(shown: Page) -> None:
    form, table = shown.locator(".filters").first, shown.locator("#cells-0")
    form.get_by_label("any text").fill("NAD")
    assert set(column(table, "method")) == {"nad"}
    form.get_by_label("attack", exact=True).select_option("badnets")
    form.get_by_label("rate", exact=True).select_option("0.01")
    assert column(table, "method") == ["nad"]
    expect(form.locator("output")).to_have_text("1 of 51 cells")
    form.get_by_label("any text").fill("")
    form.get_by_label("attack", exact=True).select_option("label_flip")
    assert len(column(table, "method")) == 5
    form.get_by_label("hide weak attacks").check()
    expect(form.locator("output")).to_have_text("0 of 51 cells")


def test_a_method_is_told_about_and_marked_in_every_view(shown: Page) -> None:
    board = shown.locator(".board").first
    board.locator(".chart").first.scroll_into_view_if_needed()
    board.get_by_label("Where does").select_option("nad")
    told = board.locator(".chooser output")
    expect(told).to_contain_text("Place 2 of 5 (mean rank 2.00")
    expect(told).to_contain_text("attack success against none: untested (n = 3 of 6 pairs)")
    assert board.locator(".standings tr.marked th").all_inner_texts() == ["nad"]
    assert board.locator(".cells tr.marked").count() == 10


def test_a_run_opens_in_its_own_address_and_back_closes_it(world: World, shown: Page) -> None:
    table, dialog = shown.locator("#cells-0"), shown.locator("dialog")
    link = table.locator("tr[data-method=nad][data-attack=badnets]").first.get_by_role("link", name="seed 1")
    link.press("Enter")
    expect(dialog).to_be_visible()
    address = shown.evaluate("location.hash")
    run = next(run for run in world.found.runs if f"#{anchor(run)}" == address)
    expect(dialog.locator("h2")).to_have_text(run.folder.name)
    rate = wilson(run.measures["attack_success_rate"], 400)
    interval = f"{100 * rate.mean:.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"  # type: ignore[operator]
    expect(dialog.locator("tr", has_text="attack success")).to_contain_text(interval)
    assert {"400", "undefended", "clean twin"} <= set(dialog.locator("table").first.locator("th, td").all_inner_texts())
    assert f"testbed train attack={run.facts['names']['attack']} seed=1" in dialog.inner_text()
    for word in (run.facts["key"], "0" * 40, "torch 2.11", "668", "1.25", "poison/"):
        expect(dialog).to_contain_text(word)
    dialog.locator("summary").click()
    expect(dialog).to_contain_text("setting_29: 2.9")
    shown.go_back()
    expect(dialog).to_be_hidden()
    shown.go_forward()
    expect(dialog).to_be_visible()
    shown.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert shown.evaluate("location.hash") == ""


def test_a_failed_run_says_why_and_nothing_of_it_is_markup(world: World, opened: Opened) -> None:
    run = next(run for run in world.found.runs if not run.done)
    shown = opened(world.place, hash=f"#{anchor(run)}")
    dialog = shown.locator("dialog")
    expect(dialog.locator(".status")).to_have_text(f"failed: {EVIL}")
    expect(dialog.locator("pre").first).to_have_text("testbed train 'a=<b> c'")
    assert shown.locator("dialog :is(script, b), img[src=x]").count() == 0
    dialog.get_by_role("button", name="Close").click()
    missing = shown.locator(".missing")
    missing.locator("summary").click()
    expect(missing).to_contain_text(EVIL)
    missing.get_by_role("link", name=run.folder.name).click()
    expect(dialog).to_be_visible()


def test_the_numbers_download_as_csv(world: World, shown: Page, tmp_path: Path) -> None:
    with shown.expect_download() as waiting:
        shown.locator("a.csv").first.click()
    waiting.value.save_as(tmp_path / "kept.csv")
    assert waiting.value.suggested_filename == "train.csv"
    rows = list(csv.DictReader(io.StringIO((tmp_path / "kept.csv").read_text())))
    cell = world.boards[0].cells[0]
    assert len(rows) == len(world.boards[0].cells)
    assert float(rows[0]["attack_success_rate"]) == cell.spreads["attack_success_rate"].interval.mean
    assert rows[0]["attack_success_rate_n"] == "3" and rows[0]["method"] == cell.method


def test_charts_switch_and_follow_the_theme(shown: Page) -> None:
    number = shown.locator(".chart").count()
    assert number == 11
    drawn(shown, number)
    assert shown.locator(".vega-actions").count() == 0
    heat = shown.locator("figure").first
    before = heat.locator("svg").inner_html()
    assert "weak n=3" in before
    heat.get_by_label("show").select_option("clean_accuracy")
    shown.wait_for_function("(was) => document.querySelector('figure svg').innerHTML !== was", arg=before)
    light = heat.locator("svg").inner_html()
    shown.emulate_media(color_scheme="dark", reduced_motion="reduce")
    shown.wait_for_function("(was) => document.querySelector('figure svg')?.innerHTML !== was", arg=light)
    shown.locator(".pictures summary").click()
    picture = shown.locator(".gallery img").first
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 96


def test_nothing_sticks_out(shown: Page, tmp_path: Path) -> None:
    fits(shown, 1280, tmp_path)


def test_nothing_sticks_out_of_a_narrow_dark_screen(world: World, opened: Opened, tmp_path: Path) -> None:
    fits(opened(world.place, width=390, dark=True), 390, tmp_path)


def fits(shown: Page, width: int, folder: Path) -> None:
    """Nothing is wider than the screen, and there is something to see."""
    drawn(shown, shown.locator(".chart").count())
    assert shown.evaluate("document.documentElement.scrollWidth") == width
    wide = shown.evaluate(
        "[...document.querySelectorAll('.chart svg')].filter((svg) => svg.getBoundingClientRect().right > innerWidth).length"
    )
    assert wide == 0
    shown.screenshot(path=folder / f"page-{width}.png", full_page=True)
    assert (folder / f"page-{width}.png").stat().st_size > 50_000


def test_a_thousand_runs_open_and_sort_at_once(tmp_path: Path, opened: Opened, capsys: pytest.CaptureFixture[str]) -> None:
    assert folders.grid(tmp_path, methods=40, seeds=5) == 1000
    start, spent = time.perf_counter(), time.process_time()
    boards, found = folders.compared(tmp_path)
    read = time.perf_counter()
    text = page(boards, found.runs, list(found.not_counted()))
    built, spent = time.perf_counter(), time.process_time() - spent
    place = tmp_path / "report.html"
    place.write_text(text, encoding="utf-8")
    times = [_opened_and_sorted(opened, place) for _ in range(2)]
    with capsys.disabled():
        print(
            f"\n1,000 runs: read and compared {read - start:.1f} s, page of {len(text) / 1e6:.1f} MB {built - read:.1f} s "
            f"({spent:.1f} s of work)"
        )
        print("opened and sorted " + ", ".join(f"{load:.2f} + {sort:.2f} s" for load, sort in times))
    assert spent < 20  # seconds of work: a neighbour on the machine can add to the others
    assert min(load + sort for load, sort in times) < 2  # others on the machine can only add to it


def _opened_and_sorted(opened: Opened, place: Path) -> tuple[float, float]:
    """Seconds until the page was loaded, and from a click until the table stood sorted on the screen."""
    shown = opened(place)
    load = shown.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd / 1000")
    sort = shown.evaluate(
        """async () => {
            const start = performance.now();
            const buttons = [...document.querySelectorAll("#cells-0 th button")];
            buttons.find((button) => button.textContent.startsWith("attack success")).click();
            await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
            return (performance.now() - start) / 1000;
        }"""
    )
    numbers = [float(value) for value in column(shown.locator("#cells-0"), "attack success")]
    assert len(numbers) == 200 and numbers == sorted(numbers)
    assert re.fullmatch(r"200 of 200 cells", shown.locator(".filters output").first.inner_text())
    return load, sort
