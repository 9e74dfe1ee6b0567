"""Directions that papers agree on, tried here: does fine-tuning remove BadNets more than Blended, do detectors miss WaNet?

    python scripts/directions.py [--outputs DIR] [NAME ...]       # run what is missing, print a table, write docs/directions.md
    make slow PYTEST=tests/test_directions.py                     # those that were shown must still show

Numbers are means over seeds 0, 1, 2 with each in brackets. A direction is tried on the data that are named here, and on no
others until it shows; it is "not testable" where an undefended attack stays below .8. `TESTBED_DATA` must hold cifar10_subset
and FashionMNIST.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from methods.said import ROOT, folders_of, spread

PAGE, KEPT = ROOT / "docs" / "directions.md", ROOT / "docs" / "directions.json"
TESTABLE = 0.8
SEEDS = "seed=0,1,2"
CIFAR = (
    "data=arrays data.name=cifar10_subset data.train=${oc.env:TESTBED_DATA}/cifar10_subset/train.npz "
    "data.test=${oc.env:TESTBED_DATA}/cifar10_subset/test.npz data.reserve_per_class=25"
)
"""Official pixels, 8,068 + 1,017 images; 25 clean images a class."""
FASHION = "data=fashion_mnist data.root=${oc.env:TESTBED_DATA} trainer.max_epochs=3"
"""60,000 + 10,000 images; so many that three epochs do."""
Runs = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Direction:
    """A sentence, the commands whose runs it is about (each over the seeds), and what makes it true of them."""

    name: str
    says: str
    source: str
    commands: tuple[str, ...]
    shown: Callable[..., bool]
    tells: tuple[str, ...]
    strong: bool = True


def mean(runs: Runs, measure: str) -> float:
    """Over seeds."""
    return fmean(float(run[measure]) for run in runs)


def success(runs: Runs) -> float:
    """Of the defended victims."""
    return mean(runs, "attack_success_rate")


def tried(data: str, *, rate: str = "") -> list[Direction]:
    """The directions on one data set; `rate` is a setting of the poison rate where the recipe's own is not meant."""
    train, detect = (f"{verb} {data} {rate}".replace("  ", " ").strip() for verb in ("train", "detect"))
    filters = ("oracle_filter", "filter detector=activation_clustering", "filter detector=spectral_signatures", "random_filter")
    return [
        Direction(
            "fine_tuning",
            "fine-tuning removes BadNets more than Blended",
            "Wu et al. 2022 (BackdoorBench, arXiv 2206.12654)",
            (f"{train} attack=badnets defence=fine_tuning", f"{train} attack=blended defence=fine_tuning"),
            lambda badnets, blended: success(badnets) < success(blended) - 0.05,
            ("undefended_attack_success_rate", "attack_success_rate", "clean_accuracy"),
        ),
        Direction(
            "neural_cleanse",
            "Neural Cleanse flags the target of patch and blend, and misses WaNet's",
            "Wang et al. 2019 (IEEE S&P); Nguyen and Tran 2021 (ICLR, arXiv 2102.10369)",
            (
                *(f"{detect} attack={attack} detector=neural_cleanse" for attack in ("badnets", "blended")),
                f"detect {data} attack=wanet detector=neural_cleanse",  # whose rate is a share of each batch
            ),
            lambda patch, blend, warp: min(_flagged(patch), _flagged(blend)) > 0.5 > _flagged(warp),
            ("attack_success_rate", "target_flagged", "other_classes_flagged", "target_anomaly_index"),
        ),
        Direction(
            "latent_separation",
            "detectors of latent separation do worse on Adaptive-Blend than on Blended",
            "Qi et al. 2023 (ICLR)",
            tuple(
                f"{detect} attack={attack} detector={detector}"
                for detector in ("activation_clustering", "spectral_signatures")
                for attack in ("blended", "adaptive_blend")
            ),
            lambda one, adapted, other, too: all(
                mean(hidden, "auroc") < mean(plain, "auroc") - 0.05 for plain, hidden in ((one, adapted), (other, too))
            ),
            ("attack_success_rate", "auroc", "tpr_at_rule"),
        ),
        Direction(
            "oracle_filter",
            "the oracle filter bounds every filter",
            "by construction; the control of Armory (twosixlabs)",
            tuple(f"{train} attack=badnets defence={defence}" for defence in filters),
            lambda oracle, *others: all(success(oracle) <= success(other) + 1e-9 for other in others),
            ("undefended_attack_success_rate", "attack_success_rate", "clean_accuracy"),
        ),
        Direction(
            "no_defence",
            "a defence that does nothing has DER .5 exactly",
            "Zhu et al. 2023 (ICCV, arXiv 2304.11823), equation 7",
            (f"{train} attack=badnets defence=none",),
            lambda runs: all(run["defence_effectiveness"] == 0.5 for run in runs),
            ("attack_success_rate", "defence_effectiveness"),
        ),
        Direction(
            "scaled_queries",
            "SCALE-UP and IBD-PSC separate BadNets' queries from clean ones",
            "Guo et al. 2023 (ICLR, arXiv 2302.03251); Hou et al. 2024 (ICML, arXiv 2405.09786)",
            tuple(f"{detect} attack=badnets detector={detector}" for detector in ("scale_up", "ibd_psc")),
            lambda scaled, amplified: min(mean(scaled, "auroc"), mean(amplified, "queries_auroc")) > 0.9,
            (
                *("attack_success_rate", "auroc", "tpr_at_rule", "fpr_at_rule"),
                *("queries_auroc", "queries_tpr_at_rule", "queries_fpr_at_rule"),
            ),
        ),
    ]


def rising(data: str) -> Direction:
    """More poison, more success."""
    rates = ("0.005", "0.01", "0.02", "0.05", "0.1")
    return Direction(
        "poison_rate",
        "success rises with the poison rate",
        "every attack of Wu et al. 2022 (BackdoorBench, arXiv 2206.12654)",
        tuple(f"train {data} attack=badnets attack.poison_rate={rate} defence=none" for rate in rates),
        lambda *runs: all(success(low) <= success(high) + 0.02 for low, high in pairwise(runs)),
        ("attack_success_rate",),
        strong=False,
    )


def _flagged(runs: Runs) -> float:
    return mean(runs, "target_flagged")


DIRECTIONS: Mapping[str, Direction] = {
    f"{direction.name}@{place}": direction
    for place, found in {
        "digits": [*tried("data=digits"), rising("data=digits")],
        "icons": [direction for direction in tried("data=icons") if direction.name == "fine_tuning"],
        "cifar10_subset": [
            direction
            for direction in tried(f"{CIFAR} model=small_cnn", rate="attack.poison_rate=0.1")
            if direction.name in ("fine_tuning", "neural_cleanse", "latent_separation", "oracle_filter", "scaled_queries")
        ],
        "fashion_mnist": [
            direction
            for direction in tried(f"{FASHION} model=small_cnn")
            if direction.name in ("fine_tuning", "scaled_queries")
        ],
    }.items()
    for direction in found
}


def record(direction: Direction, outputs: Path) -> dict[str, Any]:
    """The runs of a direction, and what they come to: 'shown', 'not shown', or 'not testable' where the attack is too weak."""
    told = [runs_of(command, outputs) for command in direction.commands]
    weak = [min(_undefended(run) for run in runs) for runs in told]
    verdict = "shown" if direction.shown(*told) else "not shown"
    if direction.strong and min(weak) < TESTABLE:
        verdict = f"not testable: an undefended attack reaches {min(weak):.3f} only"
    cells = [
        {name: [run.get(name) for run in runs] for name in direction.tells if all(run.get(name) is not None for run in runs)}
        for runs in told
    ]
    return {"verdict": verdict, "cells": dict(zip(direction.commands, cells, strict=True))}


def _undefended(run: Mapping[str, Any]) -> float:
    return float(run.get("undefended_attack_success_rate", run["attack_success_rate"]))


def runs_of(command: str, outputs: Path) -> list[dict[str, Any]]:
    """The measures of each seed; made where they are not there yet."""
    folders = folders_of([*command.split(), "-m", SEEDS], outputs)
    return [json.loads((folder / "result.json").read_text())["measures"] for folder in folders]


def page(told: Mapping[str, Mapping[str, Any]]) -> str:
    """docs/directions.md."""
    lines = [
        "# Directions that papers agree on",
        "",
        "Made by `python scripts/directions.py`: seeds 0, 1, 2, mean and each. It is *not testable* where an undefended",
        f"attack stays below {TESTABLE} in a seed; none was tuned until it showed. `make slow PYTEST=tests/test_directions.py`",
        "tries those again that were shown. CIFAR's rows are `cifar10_subset`: 8,068 + 1,017 official images, small CNN, 10 %",
        "poison, 25 clean images a class; FashionMNIST's are all 60,000 + 10,000, small CNN, 3 epochs, 250 clean images a",
        "class.",
        "",
        "| direction | on | verdict | numbers | source |",
        "|---|---|---|---|---|",
    ]
    for key, direction in DIRECTIONS.items():
        if key in told:
            cells = "; ".join(f"{_short(command)}: {_numbers(cell)}" for command, cell in told[key]["cells"].items())
            place = key.partition("@")[2]
            lines.append(f"| {direction.says} | {place} | **{told[key]['verdict']}** | {cells} | {direction.source} |")
        else:
            lines.append(f"| {direction.says} | {key.partition('@')[2]} | not tried yet | – | {direction.source} |")
    return "\n".join(lines) + "\n"


def _short(command: str) -> str:
    """The words of a command that tell it from its neighbours."""
    kept = [
        word for word in command.split()[1:] if word.startswith(("attack=", "attack.poison_rate=", "defence=", "detector="))
    ]
    return " ".join(word.replace("attack.poison_rate=", "rate ").rpartition("=")[2] for word in kept)


def _numbers(cell: Mapping[str, Sequence[float]]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {spread(values)}" for name, values in cell.items())


def main() -> None:
    """Run what is named, or everything, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--outputs", type=Path, default=ROOT / "outputs" / "directions")
    given = parser.parse_intermixed_args()
    told = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.is_file() else {}
    for key, direction in DIRECTIONS.items():
        if not given.names or {key, direction.name, key.partition("@")[2]} & set(given.names):
            told[key] = record(direction, given.outputs.resolve())
            KEPT.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            print(f"{key}: {told[key]['verdict']}", flush=True)
    PAGE.write_text(page(json.loads(KEPT.read_text(encoding="utf-8"))), encoding="utf-8")  # in the order in which it is kept
    print(PAGE)


if __name__ == "__main__":
    main()
