"""The benchmark still runs, and compares what is equal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from testbed import artefact
from testbed.fit import fit

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    """The script as a module; its neighbours are found as they are when it is run."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        import benchmark

        yield benchmark
    for name in set(sys.modules) - before:
        if name in ("benchmark", "stopwatch", "whole_run"):
            del sys.modules[name]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_lightning_and_the_bare_loop_train_the_same_weights_bit_by_bit(benchmark: ModuleType, precision: str) -> None:
    victim, examples = benchmark.victim_for(benchmark.TASK), benchmark.images(70)
    settings = replace(benchmark.SETTINGS, batch_size=32, max_epochs=2, precision=precision)
    trained = benchmark.fit(victim, examples, settings=settings, seed=3)[0]
    bare = benchmark.bare_loop(victim, examples, replace(settings, precision="32-true"), 3)
    assert benchmark.same_weights(trained, bare) == (precision == "32-true")
    assert not benchmark.same_weights(trained, victim)


def test_other_weights_are_noticed(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = benchmark.bare_loop
    monkeypatch.setattr(benchmark, "bare_loop", lambda *given: loop(*given[:-1], 1))
    with pytest.raises(RuntimeError, match="different weights"):
        benchmark.overhead(
            "other", benchmark.victim_for(benchmark.TASK), benchmark.images(8), settings=benchmark.SETTINGS, repeats=1
        )


def test_both_sides_of_poisoning_make_the_same_images(benchmark: ModuleType) -> None:
    inputs = benchmark.images(20).inputs
    stored = inputs.permute(0, 2, 3, 1).contiguous().numpy()
    usual = torch.from_numpy(benchmark.stamped_one_by_one(stored, 20, benchmark.pasted)).permute(0, 3, 1, 2)
    assert torch.equal(usual, benchmark.Patch()(inputs, torch.arange(20), 0))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_every_part_runs(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.random.get_rng_state()
    found = [
        *benchmark.triggers(1, rows=40, part=20),
        *benchmark.epoch(1, rows=130),
        *benchmark.lightning(1, rows=40, epochs=1, milliseconds=0),
    ]
    assert torch.equal(before, torch.random.get_rng_state())
    benchmark.show(found)
    printed = capsys.readouterr().out
    assert all(one.name in printed and one.ratio("cpu").median > 0 for one in found)
    assert json.loads(json.dumps([one.as_dict() for one in found]))[-1]["notes"]["final weights"] == "equal bit by bit"


def test_the_verdict_is_on_cpu_time_where_the_clocks_disagree(benchmark: ModuleType) -> None:
    fast = [benchmark.Seconds(1, 1)] * 3
    agreeing = benchmark.Comparison("", [benchmark.Seconds(2, 2.1)] * 3, fast, ">= 1.8")
    waiting = benchmark.Comparison("", [benchmark.Seconds(9, 1.5)] * 3, fast, ">= 1.8")
    assert (agreeing.verdict, waiting.verdict) == ("met (wall)", "MISSED (cpu)")


def test_a_whole_run_trains_through_what_the_benchmark_watches() -> None:
    assert artefact.fit is fit


@pytest.mark.slow
def test_a_whole_run_is_taken_apart(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    runs = benchmark.whole_runs(1, ["trainer.max_epochs=1"])
    first, again = runs["first run"][0], runs["same again"][0]
    assert first.training.cpu > 0 and first.rest.cpu > 0 and first.phases
    assert again.training.cpu == 0
    assert 0 < again.until_training.cpu < first.until_training.cpu
    benchmark.show_runs(runs)
    assert "same again" in capsys.readouterr().out
