"""Trials of a targeted attack by the real command line: a suite of two of them, its table, and its refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Say = Callable[..., Any]
SUITE = """# Small.
verb: train
clean_budget: 14 rows a class
seeds: 1
targets: 2
settings: [trainer.max_epochs=1, trainer.batch_size=256, model.network.width=2]
worlds: {digits: [data=digits]}
attacks: {brew: [attack=gradient_matching, attack.iterations=2, attack.restarts=1]}
methods: {none: [defence=none]}
"""


def test_a_suite_of_two_trials_is_run_pooled_and_extended(here: Path, say: Say, spawn: Say) -> None:
    (here / "conf" / "suite").mkdir(parents=True)
    (here / "conf" / "suite" / "aimed.yaml").write_text(SUITE)
    words = ("benchmark", "suite=aimed", "--config-dir", "conf", "logger=none")
    dry = say(*words, "--dry-run")
    assert dry.code == 0 and "0 x 2 trials" in dry.out and "3 runs in 2 cells" in dry.out
    found = spawn(*words, "jobs=1")
    assert found.code == 0, found.err
    assert "aimed" in found.out and "3 runs, 0 done already; departures from the suite: none" in found.out
    assert "digits brew none s0 t1: done" in found.out
    runs = {path.parent.name.rpartition("-")[0]: path.parent for path in here.glob("outputs/train/*/run.json")}
    assert sorted(runs) == [
        f"{name}-none-digits-s0{end}" for name, end in (("gradient_matching", ""), ("gradient_matching", "-t1"), ("none", ""))
    ]
    told = [json.loads((folder / "manifest.json").read_text()) for name, folder in sorted(runs.items()) if "matching" in name]
    assert [manifest["trial"] for manifest in told] == [0, 1] and told[0]["target"] != told[1]["target"]
    twins = {json.loads((folder / "run.json").read_text())["victims"]["clean_twin"] for folder in runs.values()}
    assert len(twins) == 1  # and the clean arm's own victim is that twin
    report = say("report")
    assert report.code == 0 and "runs: 3 of 3 done" in report.out and " of 2 trials [" in report.out
    again = spawn(*words, "targets=1", "--dry-run")  # where the variables are those that the runs were made with
    assert "2 runs in 2 cells; 2 are done already" in again.out
    assert "trial: the suite gives it to every run; say targets= to choose others" in say(*words, "trial=3").refusal()


def test_detectors_have_trials_whose_scores_only_seeds_can_decide(here: Path, say: Say) -> None:
    (here / "conf" / "suite").mkdir(parents=True)
    methods = "methods: {deep_knn: [detector=deep_knn], scan: [detector=scan]}\nbaseline: deep_knn\nfamilies: [[auroc]]\n"
    told = SUITE.replace("verb: train", "verb: detect").replace("methods: {none: [defence=none]}\n", methods)
    (here / "conf" / "suite" / "aimed.yaml").write_text(told)
    words = ("benchmark", "suite=aimed", "--config-dir", "conf", "logger=none", "launcher=basic")
    dry = say(*words, "targets=10", "--dry-run")
    assert dry.code == 0 and "0 x 10 trials" in dry.out, dry
    assert "from 6 seeds on a difference can be significant (1 test a method, Holm); 1 is asked for" in dry.out
    found = say(*words, "detector=deep_knn")
    assert found.code == 0 and "3 runs, 0 done already" in found.out, found
    report = say("report", "measures=auroc", "format=csv").out
    assert [line.count(",gradient_matching,") for line in report.splitlines()].count(1) == 2


def test_an_attack_without_trials_refuses_one(say: Say) -> None:
    refused = say("train", "attack=badnets", "trial=1", "trainer.max_epochs=1", "logger=none")
    assert refused.code == 2 and "trial=1: Backdoor is made for no single target" in refused.refusal()
