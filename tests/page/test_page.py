"""What the page says, read off its text: numbers, marks, escapes; and what it must not carry."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from testbed.leaderboard import Cell, Contrast, Leaderboard, Spread, Standing, Trial
from testbed.page import page
from testbed.page.cells import as_csv, table
from testbed.page.dossier import dossiers
from testbed.page.measure import columns, measure_of
from testbed.page.overview import overview
from testbed.page.pictures import Album
from testbed.page.points import EVERY, trade_off
from testbed.page.scores import _histogram, _roc
from testbed.statistics import over_seeds

from . import folders
from .conftest import EVIL, World

VOID = {"meta", "input", "img", "wbr"}


class Tags(HTMLParser):
    """Notes the elements of a page, and whether each was closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.scripts = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open += [] if tag in VOID else [tag]
        self.addresses += [str(value) for name, value in attrs if name in ("src", "href", "action")]
        self.scripts += tag == "script"
        assert tag != "link" and not any(name.startswith("on") for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def stored(text: str, name: str) -> Any:
    """What the page carries as JSON under this name."""
    found = re.search(rf'<script type="application/json" id="data-{name}">(.*?)</script>', text)
    assert found is not None
    return json.loads(found[1])


def spread(*values: float) -> Spread:
    return Spread(over_seeds(values), None, dict(enumerate(values)))


def cell(method: str, attack: str = "badnets", success: float = 0.5, accuracy: float = 0.9, **more: Any) -> Cell:
    """A cell of three seeds around these numbers."""
    around = {"attack_success_rate": success, "clean_accuracy": accuracy}
    told = [{name: value + (seed - 1) / 100 for name, value in around.items()} for seed in range(3)]
    made = (("digits", attack, None, method, seed, "done") for seed in range(3))
    trials = tuple(Trial(*one, measures=told[one[4]], folder=f"train/{method}-{one[4]}") for one in made)
    spreads = {name: spread(value - 0.01, value, value + 0.01) for name, value in around.items()}
    return Cell("digits", attack, None, method, trials, **{"spreads": spreads, **more})


def board(*cells: Cell, standings: tuple[Standing, ...] = (), **more: Any) -> Leaderboard:
    return Leaderboard("made up", "train", "0123456789ab", (), "none", cells, standings, baseline="none", **more)


def test_the_page_is_whole_and_asks_for_nothing_from_elsewhere(world: World) -> None:
    found = Tags(world.text)
    assert found.open == []
    assert {address[:5] for address in found.addresses if not address.startswith("#")} == {"data:"}
    assert found.scripts == 7  # three of data, two of ours, the library once, and ours that needs it
    assert world.text.count("window.vegaEmbed=") == 1


def test_nothing_from_a_run_is_markup(world: World) -> None:
    assert EVIL not in world.text and "alert('of a run')" in world.text.replace("&#x27;", "'")
    run = next(run for run in stored(world.text, "runs")["runs"].values() if run["status"] == "failed")
    assert run["reason"] == EVIL and run["command"] == "testbed train 'a=<b> c'"


def test_prompts_and_answers_stay_where_they_are(tmp_path: Path) -> None:
    names = {"data": "toy_world", "model": "toy_chat", "attack": "few_shot", "defence": "none"}
    folder = folders.leave(tmp_path, "degrade", names, 0, measures={"refusal_rate_end": 0.5})
    (folder / "answers.jsonl").write_text('{"prompt": "a secret question", "reply": "a secret answer"}\n')
    (folder / "figures").mkdir()
    (folder / "figures" / "success.json").write_text('[{"clean": "a secret question"}]')
    boards, found = folders.compared(tmp_path)
    assert "secret" not in page(boards, found.runs, [])


def test_a_page_without_runs_and_one_of_unwritable_names(tmp_path: Path) -> None:
    assert Tags(page([], [], ["not counted, failed: \udc80"])).scripts == 5
    page([], [], ["not counted, failed: \udc80"]).encode("utf-8")


def test_a_mark_needs_a_corrected_p_below_a_twentieth() -> None:
    pairs = over_seeds([-0.4, -0.5, -0.6, -0.4, -0.5, -0.6])
    cases = {"a": Contrast(pairs, 0.01, 0.049, 6), "b": Contrast(pairs, 0.01, 0.051, 6), "c": Contrast(pairs, 0.001, None)}
    cells = [cell(name, contrasts={"attack_success_rate": contrast}) for name, contrast in cases.items()]
    few = cell("d", contrasts={"attack_success_rate": Contrast(over_seeds([-0.5, -0.4]), None, None)})
    text = table(board(*cells, few), [measure_of("attack_success_rate")], {}, 0)
    rows = text.split("<tbody>")[1].split("</tr>")
    assert ["*" in row for row in rows[:4]] == [True, False, False, False]
    assert 'title="p = 0.049 after Holm" class="better">−50.0 ± 9.4 *<small>n = 6</small>' in rows[0]
    assert "in no family" in rows[2] and "not tested below 6 pairs" in rows[3]


def test_a_row_of_the_table_says_how_sure_it_is() -> None:
    failed = Trial("digits", "badnets", None, "mine", 3, "failed", "ValueError: no", folder="train/mine-3")
    whole = cell("mine", success=0.2, weak=True)
    found = board(Cell("digits", "badnets", None, "mine", (*whole.trials, failed), whole.spreads, weak=True))
    text = table(found, columns(found), {"mine-0": "run-train-0", "mine-3": "run-train-3"}, 0)
    assert "<b>20.0</b> ± 2.5<small>n = 3</small>" in text and text.count("<i style=") == 6
    assert ">weak</span>" in text and ">1 failed</span>" in text and 'title="ValueError: no"' in text
    assert "3 of 4" in text and 'href="#run-train-0"' in text and 'href="#run-train-3"' in text


def test_the_csv_holds_what_the_table_shows_unrounded() -> None:
    contrast = Contrast(over_seeds([-0.1, -0.2]), None, None)
    found = board(cell("none"), cell("mine", success=0.123456, contrasts={"attack_success_rate": contrast}))
    rows = list(csv.DictReader(io.StringIO(as_csv(found, columns(found)))))
    assert [row["method"] for row in rows] == ["none", "mine"]
    assert float(rows[1]["attack_success_rate"]) == pytest.approx(0.123456, abs=1e-12)
    assert rows[1]["attack_success_rate_n"] == "3" and rows[1]["attack_success_rate_difference_n"] == "2"
    assert rows[0]["attack_success_rate_difference"] == "" and rows[1]["attack_success_rate_p_corrected"] == ""


def test_on_the_front_is_whom_nobody_beats() -> None:
    numbers = {"none": (0.9, 0.95), "mine": (0.1, 0.90), "worse": (0.2, 0.89), "middle": (0.5, 0.93)}
    made = [cell(name, success=success, accuracy=accuracy) for name, (success, accuracy) in numbers.items()]
    means, seeds = trade_off(board(*made), measure_of("clean_accuracy"), measure_of("attack_success_rate"))
    assert {row["method"] for row in means if row["front"]} == {"none", "mine", "middle"}
    assert [row["safety"] for row in means if row["method"] == "mine"] == [pytest.approx(0.9)]
    assert len(seeds) == 12


def test_the_mean_over_attacks_leaves_out_who_lacks_one_and_what_is_weak() -> None:
    made = [cell("none", attack, 0.9) for attack in ("badnets", "blended")] + [cell("mine", "badnets", 0.1)]
    made += [cell(name, "sig", 0.0, weak=True) for name in ("none", "mine")]
    means, _ = trade_off(board(*made), measure_of("clean_accuracy"), measure_of("attack_success_rate"))
    assert {row["method"] for row in means if row["place"] == EVERY} == {"none"}
    assert {row["place"] for row in means} == {EVERY, "badnets", "blended", "sig (weak)"}


def test_the_answer_comes_first_and_a_method_of_the_readers_own_is_chosen() -> None:
    six = over_seeds([-0.4, -0.5, -0.6, -0.4, -0.5, -0.6])
    mine = cell("mine", success=0.1, contrasts={"attack_success_rate": Contrast(six, 0.01, 0.02, 6)})
    trials = tuple(replace(trial, declared=False) for trial in mine.trials)
    standings = (
        Standing("mine", None, 1, 1, 3, 1.0, 1.0, {"attack_success_rate": 0.1}, {"attack_success_rate": 0.1}),
        Standing("none", None, 1, 1, 3, 2.0, 2.0, {"attack_success_rate": 0.5}, {"attack_success_rate": 0.5}),
    )
    found = board(cell("none"), replace(mine, trials=trials), standings=standings)
    text = page([replace(found, departures=("seeds 0 instead of 0,1",), missing=("missing: digits sig none s0",))], [], [])
    assert text.index("mine is first of 2 methods by DER: mean rank 1.00, worst 1, n = 3 runs") < text.index("<table")
    assert "Its attack success against none: 1 better, 0 worse, 0 undecided (n = 1 cells)." in text
    assert '<option value="mine" selected data-told="Place 1 of 2' in text and ">added</span>" in text
    assert "Not the suite as declared: </b>seeds 0 instead of 0,1" in text and "missing: digits sig none s0" in text
    assert "suite hash 0123456789ab" in text and "clean budget of a defender: none" in text


def test_weak_attacks_have_no_colour_and_every_tile_its_n() -> None:
    found = board(cell("mine", "badnets", 0.2), cell("mine", "sig", 0.0, weak=True))
    rows = overview(found, columns(found), 0)[0].sets["cells0"]
    tiles = {(row["attack"], row["measure"]): row for row in rows}
    assert tiles["badnets", "attack_success_rate"]["good"] == pytest.approx(0.8)
    assert tiles["sig", "attack_success_rate"]["good"] is None
    assert [row["below"] for row in rows] == ["n=3", "n=3", "weak n=3", "weak n=3"]


def test_only_the_measures_asked_for_are_shown(world: World) -> None:
    boards, found = world.boards, world.found
    text = page(boards[:1], found.runs, [], ["robust_accuracy"])
    head = text.split('class="cells"')[1].split("</thead>")[0]
    assert "robust accuracy" in head and "clean accuracy" not in head


def test_an_album_holds_a_picture_once_and_no_more_than_it_can(tmp_path: Path) -> None:
    for name, shade in (("a", 1), ("b", 1), ("c", 2)):
        folders.paint(tmp_path / f"{name}.png", shade)
    size = (tmp_path / "a.png").stat().st_size
    album = Album(room=size + 1)
    first, second, third = (album.add(tmp_path / f"{name}.png") for name in "abc")
    assert first == second and third is None
    assert len(album.addresses) == 1 and album.left_out == 1


def test_runs_share_the_lines_of_their_configurations(world: World) -> None:
    told = dossiers(world.found.runs, {})
    assert len(told["runs"]) == len(world.found.runs)
    assert len(told["lines"]) == len(set(told["lines"])) < 10 * len(world.found.runs)
    run = world.found.runs[0]
    lines = [told["lines"][place] for place in told["runs"][f"run-{run.facts['verb']}-{run.facts['key']}"]["config"]]
    assert "\n".join(lines) + "\n" == (run.folder / "config.yaml").read_text()


def test_a_thinned_curve_gives_the_most_that_a_threshold_gives() -> None:
    suspicious = np.array([True, False, True, False, False, True] + [False] * 97)
    scores = np.arange(len(suspicious))[::-1].astype(float)  # of the most suspicious six, the first, third and last are
    found = _roc(scores, suspicious)
    at = dict(zip(found["fpr"], found["tpr"], strict=True))
    assert found["fpr"][0] == 0.01 and at[0.01] == pytest.approx(2 / 3, abs=1e-4) and at[1.0] == 1.0
    assert found["n"] == "100 clean, 3 poisoned"


def test_a_histogram_loses_nothing_at_its_ends() -> None:
    scores = np.r_[np.linspace(0, 1, 999), 1000.0]
    clean, poisoned = _histogram(scores, np.arange(1000) > 899)
    assert sum(clean["share"]) == pytest.approx(1, abs=1e-3) and sum(poisoned["share"]) == pytest.approx(1, abs=1e-3)
    assert (clean["n"], poisoned["n"]) == (900, 100) and clean["end"][-1] < 2


def test_a_censored_half_life_is_a_bound_and_no_mean(world: World) -> None:
    degrade = next(found for found in world.boards if found.verb == "degrade")
    text = table(degrade, columns(degrade), {}, 0)
    assert "<b>&gt; 64.00</b><small>n = 2, median</small>" in text and "<b>9.000</b>" in text
