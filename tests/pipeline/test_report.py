"""Which finished runs `report` counts, and what its tables say of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testbed.api import Invalid
from testbed.cli import main
from testbed.files import read_json, seal, write_json
from testbed.identity import current_source
from testbed.pipeline.report import report
from testbed.record import SCHEMA
from testbed.statistics import over_seeds

from .conftest import World
from .left import leave

Told = Callable[..., str]


@pytest.fixture
def told(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Told:
    def tell(width: int = 200, **options: Any) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        chosen = {"runs": str(tmp_path), "paths": {"outputs": str(tmp_path)}, "measures": None, "format": "markdown"}
        assert report(**{**chosen, **options}) == 0
        return "".join(capsys.readouterr())

    return tell


def at(hour: int) -> str:
    return f"2026-01-01T{hour:02}:00:00.000000+00:00"


def table_of(said: str) -> list[list[str]]:
    """The cells of the rows of a Markdown table."""
    lines = [line for line in said.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def rows_of(said: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(said)))


def test_a_run_in_two_folders_counts_once(tmp_path: Path, told: Told) -> None:
    for number, (folder, seed) in enumerate([("by-name", 0), ("by-class", 0), ("other", 1)]):
        leave(tmp_path, seed=seed, folder=folder, measures={"clean_accuracy": 0.5}, made_at=at(number))
    assert [row[4] for row in table_of(told())] == ["2"]
    assert len(rows_of(told(format="csv"))) == 2


def test_a_failure_in_one_folder_does_not_hide_the_same_run_done_in_another(tmp_path: Path, told: Told) -> None:
    leave(tmp_path, folder="done", measures={"clean_accuracy": 0.5}, made_at=at(1))
    leave(tmp_path, folder="failed", status="failed", made_at=at(2))
    assert "0.500" in told() and "not counted" not in told()


@pytest.mark.parametrize("newest", [0, 1])
def test_of_two_states_of_the_data_the_one_made_last_is_shown(tmp_path: Path, told: Told, newest: int) -> None:
    for seed in (0, 1):  # more runs do not outweigh newer ones
        leave(tmp_path, seed=seed, folder=f"a{seed}", contents={"train": "a"}, measures={"auroc": 0.1}, made_at=at(5))
    leave(tmp_path, folder="b0", contents={"train": "b"}, measures={"auroc": 0.9}, made_at=at(5 + 2 * newest - 1))
    said = told(measures="auroc")
    assert ("0.900" in said, "0.100" in said) == (bool(newest), not newest)
    stale = ["a0", "a1"] if newest else ["b0"]
    assert [line.rpartition(" ")[2] for line in said.splitlines() if "stale" in line] == stale


def test_the_present_code_comes_before_what_was_made_last(tmp_path: Path, told: Told) -> None:
    present = {"testbed.words": str(current_source("testbed.words"))}
    leave(tmp_path, folder="new", sources={"testbed.words": "other"}, measures={"auroc": 0.9}, made_at=at(9))
    leave(tmp_path, folder="old", sources=present, measures={"auroc": 0.1}, made_at=at(1))
    assert "0.100" in told(measures="auroc") and "others): new" in told()


def test_a_failure_is_named_unless_the_run_went_well_afterwards(tmp_path: Path, told: Told) -> None:
    leave(tmp_path, folder="done", contents={"train": "a"}, measures={"auroc": 0.1}, made_at=at(5))
    leave(tmp_path, folder="before", contents={"train": "b"}, status="failed", made_at=at(1))
    leave(tmp_path, folder="after", contents={"train": "c"}, status="failed", made_at=at(9))
    said = told()
    assert "not counted, failed: after: as told" in said and "before" not in said


ODD: dict[str, Callable[[Path], object]] = {
    "schema 1": lambda place: write_json(place / "run.json", {**read_json(place / "run.json"), "schema": 1}),
    "no cell": lambda place: write_json(place / "run.json", {"schema": SCHEMA, "verb": "train"}),
    "a list": lambda place: write_json(place / "run.json", []),
    "half a file": lambda place: (place / "run.json").write_text('{"schema"'),
    "no run.json": lambda place: (place / "run.json").unlink(),
    "no measures": lambda place: write_json(place / "result.json", {"status": "done"}),
    "no configuration": lambda place: (place / "config.yaml").unlink(),
    "no yaml": lambda place: (place / "config.yaml").write_text("{"),
    "no whole seed": lambda place: (place / "config.yaml").write_text("seed: zero"),
    "a null seed": lambda place: (place / "config.yaml").write_text("seed: null"),
}


@pytest.mark.parametrize("spoil", ODD.values(), ids=ODD)
def test_a_record_of_another_version_is_named_and_the_rest_is_told(
    tmp_path: Path, told: Told, spoil: Callable[[Path], object]
) -> None:
    leave(tmp_path, measures={"clean_accuracy": 0.5})
    spoil(leave(tmp_path, seed=1, folder="odd", measures={"clean_accuracy": 0.9}))
    said = told()
    assert "not counted, made by an earlier version: odd\n" in said
    assert [row[4:6] for row in table_of(said)] == [["1", "0.500"]]


def test_only_records_of_another_version_are_named_and_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leave(tmp_path, folder="odd", schema=1)
    with pytest.raises(Invalid, match="there is no finished run below it"):
        report(runs=str(tmp_path), paths={}, measures=None, format="table")
    assert "earlier version: odd" in capsys.readouterr().err


def test_a_record_of_another_version_is_made_again(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    folder = world()
    run, result = read_json(folder / "run.json"), (folder / "result.json").read_bytes()
    write_json(folder / "run.json", {**run, "schema": 1})
    seal(folder)
    assert world() == folder and "its record is of another version" in capsys.readouterr().out
    again = read_json(folder / "run.json")
    assert again["schema"] == SCHEMA and again["made_at"] > run["made_at"]
    assert (folder / "result.json").read_bytes() == result  # no clock in it


def test_csv_is_one_table_of_numbers_with_a_row_a_run(tmp_path: Path, told: Told) -> None:
    leave(
        tmp_path, seed=3, measures={"clean_accuracy": 1 / 3, "robust_accuracy": None}, settings={"attack": {"poison_rate": 0.1}}
    )
    leave(tmp_path, verb="detect", names={"detector": "strip"}, measures={"auroc": 0.75, "flagged_classes": [1, 2]})
    leave(tmp_path, seed=4, status="failed")
    trained, detected = rows_of(told(format="csv").partition("not counted")[0])
    assert (trained["verb"], trained["method"], trained["rate"], trained["seed"]) == ("train", "none", "0.1", "3")
    assert float(trained["clean_accuracy"]) == 1 / 3 and trained["clean_accuracy_n"] == "100"
    assert trained["robust_accuracy"] == trained["robust_accuracy_n"] == trained["auroc"] == ""
    assert (detected["verb"], detected["method"], detected["auroc"]) == ("detect", "strip", "0.75")
    assert len(trained["key"]) == 16 and trained.keys() == detected.keys()
    few = rows_of(told(format="csv", measures=["auroc"]).partition("not counted")[0])[0]
    assert "auroc_n" in few and "clean_accuracy" not in few


def test_measures_are_checked_and_may_be_one_word(tmp_path: Path, told: Told) -> None:
    leave(tmp_path, measures={"clean_accuracy": 0.5})
    leave(tmp_path, verb="detect", names={"detector": "strip"}, measures={"auroc": 0.75})
    said = told(measures="auroc")
    assert "0.750" in said and "train" not in said  # no table without a measure in it
    for wrong, advice in (("aurok", "did you mean auroc?"), ("foo", "choose from ")):
        with pytest.raises(Invalid, match=rf"measures={wrong}: .*{advice[:-1]}"):
            told(measures=[wrong])


def test_settings_that_differ_stand_beneath_the_table_and_paths_are_short(tmp_path: Path, told: Told) -> None:
    for epochs in (5, 10):
        settings = {
            "defence": {"epochs": epochs, "root": f"/a/long/way/to/set{epochs}"},
            "model": {"weights": f"/{epochs}/same"},
        }
        leave(tmp_path, measures={"clean_accuracy": epochs / 10}, settings=settings)
    lines = told(width=80, format="table").splitlines()
    assert [line.split()[-1] for line in lines if "none" in line] == ["a)", "b)"]
    assert "  a) defence.epochs=5, defence.root=set5, model.weights=/5/same" in lines


@pytest.mark.parametrize("width", [40, 80, 130, 200])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_cut(tmp_path: Path, told: Told, width: int) -> None:
    names = ("clean_accuracy", "attack_success_rate", "robust_accuracy", "undefended_attack_success_rate")
    for seed in range(5):
        for defence in ("none", "fine_pruning"):
            measures = {name: (seed + place) / 10 for place, name in enumerate(names)}
            leave(tmp_path, seed=seed, names={"defence": defence}, measures=measures)
    said = told(width=width, format="table")
    assert max(map(len, said.splitlines())) <= width and "…" not in said
    intervals = [over_seeds([(seed + place) / 10 for seed in range(5)]) for place in range(4)]
    for interval in intervals:
        assert said.count(f"{interval.mean:.3f} ± {interval.high - interval.mean:.3f}") == 2
    assert said.count("defence = ") == (2 if width == 40 else 0)  # a block a row only where the columns cannot fit


def degraded(root: Path, *, half_lives: list[float | None], limits: list[float | None], **changes: Any) -> None:
    for seed, (half_life, limit) in enumerate(zip(half_lives, limits, strict=True)):
        its = {
            "judge": "oracle",
            "toy": True,
            "half_life_steps": half_life,
            "half_life_censored_at": limit,
            **changes.pop("measures", {}),
        }
        names = {"data": "toy_world", "model": "toy_chat", "attack": "few_shot", **changes.get("names", {})}
        leave(root, verb="degrade", seed=seed, names=names, settings={"attack": {"shots": 50}}, measures=its)


CENSORED = [
    ([10.0, 20.0, None], [None, None, 500.0], "KM median 20.00 (10.00 20.00 >500.0)"),
    ([10.0, None, None], [None, 500.0, 500.0], "KM median >500.0 (10.00 >500.0 >500.0)"),
    ([None], [500.0], ">500.0"),
    ([10.0, None, 20.0], [None, None, None], "10.00 - 20.00"),  # not aligned: no half-life, and none that is only longer
    ([10.0, 20.0], [None, None], "15.00 ± 63.53 (10.00 20.00)"),
]


@pytest.mark.parametrize(("half_lives", "limits", "shown"), CENSORED)
def test_a_half_life_that_was_not_reached_is_in_no_mean(
    tmp_path: Path, told: Told, half_lives: list[float | None], limits: list[float | None], shown: str
) -> None:
    degraded(tmp_path, half_lives=half_lives, limits=limits)
    assert table_of(told(measures="half_life_steps"))[0][-1] == shown


def test_a_toy_says_so_and_a_judge_is_a_label(tmp_path: Path, told: Told) -> None:
    degraded(tmp_path, half_lives=[10.0], limits=[None])
    row = table_of(told())[0]
    assert row[:6] == ["toy_world (toy)", "toy_chat", "few_shot", "50", "none", "oracle"]
    assert "data = toy_world (toy)" in told(format="table") and "judge = oracle" in told(format="table")
    assert rows_of(told(format="csv"))[0]["shots"] == "50"


def test_a_measure_that_a_seed_lacks_says_how_many_have_it(tmp_path: Path, told: Told) -> None:
    for seed, value in enumerate([0.5, None, 0.7]):
        leave(tmp_path, seed=seed, measures={"clean_accuracy": value})
    assert "(2 of 3) (0.500 - 0.700)" in told()


def test_draws_of_one_seed_are_no_further_models(tmp_path: Path, told: Told) -> None:
    for seed, draw, value in ((0, 0, 0.1), (0, 1, 0.3), (1, 0, 0.6), (1, 1, 0.8)):
        place = leave(tmp_path, verb="degrade", seed=seed, key=f"{seed}{draw}", measures={"utility_end": value})
        (place / "config.yaml").write_text(f"seed: {seed}\ndraw: {draw}\n")
    interval = over_seeds([0.2, 0.7])
    row = table_of(told())[0]
    assert row[-2:] == ["2 (4 runs)", f"0.450 ± {interval.high - 0.45:.3f} (0.100/0.300 0.600/0.800)"]


def test_seeds_that_attack_one_and_the_same_model_are_draws(tmp_path: Path, told: Told) -> None:
    for seed, value in enumerate((0.1, 0.3, 0.5)):
        leave(tmp_path, verb="degrade", seed=seed, measures={"utility_end": value}, victims={"aligned": "one"})
    interval = over_seeds([0.1, 0.3, 0.5])
    row = table_of(told())[0]
    assert row[-2:] == ["1 (3 runs)", f"0.300 ± {interval.high - 0.3:.3f} this model only (0.100/0.300/0.500)"]


def test_a_model_that_was_attacked_more_often_weighs_no_more(tmp_path: Path, told: Told) -> None:
    times = {0: [None, None, None, None], 1: [1.5], 2: [1.0]}  # where None, it had not happened at 2
    for seed, draws in times.items():
        for draw, value in enumerate(draws):
            measures = {"half_life_steps": value, "half_life_censored_at": 2.0 if value is None else None}
            place = leave(tmp_path, verb="degrade", seed=seed, key=f"{seed}{draw}", measures=measures)
            (place / "config.yaml").write_text(f"seed: {seed}\ndraw: {draw}\n")
    row = table_of(told(measures="half_life_steps"))[0]
    assert row[-2:] == ["3 (6 runs)", "KM median 1.500 (>2.000/>2.000/>2.000/>2.000 1.500 1.000)"]  # over runs: > 2


def test_draws_of_one_model_alone_say_so_even_where_they_are_censored(tmp_path: Path, told: Told) -> None:
    for draw, value in enumerate((None, None, 1.0)):
        measures = {"half_life_steps": value, "half_life_censored_at": 2.0 if value is None else None}
        place = leave(tmp_path, verb="degrade", key=f"{draw}", measures=measures)
        (place / "config.yaml").write_text(f"seed: 0\ndraw: {draw}\n")
    assert table_of(told(measures="half_life_steps"))[0][-1].startswith("KM median >2.000 this model only")


def test_the_page_holds_every_run_and_what_was_not_counted(tmp_path: Path, told: Told) -> None:
    for epochs in (5, 10):
        for seed in (0, 1):
            names, settings = {"defence": "<b>mine"}, {"defence": {"epochs": epochs}}
            leave(tmp_path, seed=seed, names=names, settings=settings, measures={"clean_accuracy": 0.5 + seed / 10})
    leave(tmp_path, folder="bad", status="failed", names={"defence": "nad"})
    said = told(format="html")
    assert said.splitlines()[0] == str(tmp_path / "report.html") and "not counted, failed: bad" in said
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;mine (defence.epochs=10)" in text and "badnets nad s0 (as told)" in text


def test_report_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leave(tmp_path, measures={"clean_accuracy": 0.5})
    leave(tmp_path, verb="detect", names={"detector": "strip"}, measures={"auroc": 0.75})
    place = f"paths.outputs={tmp_path}"
    assert main(["report", place, "measures=auroc", "format=csv"]) == 0
    assert rows_of(capsys.readouterr().out)[-1]["auroc"] == "0.75"
    assert main(["report", place, "measures=[clean_accuracy,auroc]", "format=html"]) == 0
    assert Path(capsys.readouterr().out.splitlines()[-1]).read_text(encoding="utf-8").count("strip")
    assert main(["report", place, "measures=[aurok]"]) == 2
    assert "measures=aurok: no run found has such a measure; did you mean auroc?" in capsys.readouterr().err
