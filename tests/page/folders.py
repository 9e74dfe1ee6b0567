"""Run folders and leaderboards that were made up: as runs leave them, without the runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from safetensors.numpy import save_file

from testbed.files import write_json
from testbed.identity import key
from testbed.leaderboard import Leaderboard
from testbed.pipeline.boards import boards_of
from testbed.pipeline.gather import Gathered, gathered
from testbed.pipeline.rows import COLUMNS
from testbed.record import SCHEMA

ATTACKS = {"badnets": 0.99, "blended": 0.9, "sig": 0.7, "adaptive_blend": 0.55, "label_flip": 0.02}
METHODS = {"none": 0.0, "fine_tuning": 0.1, "fine_pruning": 0.35, "nad": 0.6, "mine": 0.8}
"""How much of an attack's success each takes away; the further ones that tests need are made up alike."""
CONFIGURATION: dict[str, Any] = {
    "trainer": {"_target_": "testbed.fit.Settings", **{f"setting_{place}": place / 10 for place in range(30)}},
    "model": {"_target_": "testbed.model.small_cnn.SmallCNN", "width": 32, "augmentation": {"crop": 4, "flip": True}},
}


def leave(root: Path, verb: str, names: dict[str, str], seed: int, *, measures: dict[str, Any], **more: Any) -> Path:
    """One run folder; `more` are `rate`, `counts`, `status`, `reason`, `command`."""
    method = "detector" if verb == "detect" else "defence"
    rate = more.get("rate", 0.1)
    dose = {"shots" if verb == "degrade" else "poison_rate": rate}
    settings = {**CONFIGURATION, "attack": dose, "data": {"name": names["data"]}, method: {"name": names[method]}}
    cell = key(verb=verb, names=names, settings=settings)
    own = key(cell=cell, seed=seed)
    name = re.sub(r"[^\w.-]", "_", f"{names['attack']}-{names[method]}-{names['data']}-s{seed}")
    folder = root / verb / f"{name}-{own}"
    folder.mkdir(parents=True)
    status = more.get("status", "done")
    counts = more.get("counts", {name: 400 for name, value in measures.items() if isinstance(value, float)})
    result = {
        "schema": SCHEMA,
        "status": status,
        "reason": more.get("reason"),
        "measures": measures,
        "counts": counts,
        "reasons": {},
    }
    write_json(folder / "result.json", result)
    run = {
        **{"schema": SCHEMA, "verb": verb, "name": folder.name.rpartition("-")[0], "key": own, "cell": cell, "names": names},
        **{"settings": own, "contents": {"train": "1"}, "sources": {}, "made_at": "2026-01-01T00:00:00.000000+00:00"},
        **{"command": more.get("command", ["testbed", verb, f"attack={names['attack']}", f"seed={seed}"]), "device": "cpu"},
        **{"commit": "0" * 40, "versions": {"python": "3.11", "torch": "2.11"}, "machine": {"system": "Linux", "threads": 1}},
        **{"seconds": {"train": 3.5, "defend": 1.25, "detect": 1.25}, "peak_memory": {"train": 7 * 10**8, "defend": 7 * 10**8}},
        **{"reused": [f"poison/{key(cell=names['attack'], seed=seed, rate=rate)}"], "made": [], "group": "", "victims": {}},
    }
    write_json(folder / "run.json", run)
    (folder / "config.yaml").write_text(yaml.dump({**settings, "seed": seed}, Dumper=FAST), encoding="utf-8")
    return folder


FAST = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def train_measures(attack: str, method: str, generator: np.random.Generator, rate: float = 0.1) -> dict[str, Any]:
    """Numbers of the usual kind, in 400ths; the last seed of a hard case may go quite otherwise."""
    strength = ATTACKS.get(attack, 0.8) * min(1, (rate / 0.1) ** 0.3)
    taken = METHODS.get(method, generator.random())
    success = np.clip(strength * (1 - taken) + generator.normal(0, 0.03), 0, 1)
    accuracy = np.clip(0.96 - 0.05 * taken + generator.normal(0, 0.006), 0, 1)

    def of_400(value: float) -> float:
        return round(float(value) * 400) / 400

    return {
        "clean_accuracy": of_400(accuracy),
        "attack_success_rate": of_400(success),
        "robust_accuracy": of_400(accuracy * (1 - success)),
        "undefended_clean_accuracy": 0.96,
        "undefended_attack_success_rate": of_400(strength),
        "clean_twin_attack_success_rate": 0.02,
        "clean_twin_clean_accuracy": 0.965,
        "defence_effectiveness": float((max(0, strength - success) - max(0, 0.96 - accuracy) + 1) / 2),
    }


def grid(root: Path, *, methods: int = 5, seeds: int = 3, attacks: int = 5, rates: tuple[float, ...] = (0.1,)) -> int:
    """Runs of `train`: so many methods, attacks and seeds. How many were made."""
    generator = np.random.default_rng(0)
    names = [*METHODS, *(f"method_{place:02}" for place in range(methods))][:methods]
    made = 0
    for attack in list(ATTACKS)[:attacks]:
        for method in names:
            for rate in rates:
                for seed in range(seeds):
                    chosen = {"data": "digits", "model": "small_cnn", "attack": attack, "defence": method}
                    leave(root, "train", chosen, seed, measures=train_measures(attack, method, generator, rate), rate=rate)
                    made += 1
    return made


def scored(root: Path, seeds: int = 2) -> None:
    """Runs of `detect` with scores, of detectors that part poisoned rows from clean ones better and worse."""
    generator = np.random.default_rng(1)
    for attack in ("badnets", "blended"):
        for method, gap in (("spectral_signatures", 1.0), ("strip", 2.5)):
            for seed in range(seeds):
                suspicious = np.arange(1000) < 100
                scores = (generator.normal(size=1000) + gap * suspicious).astype(np.float32)
                names = {"data": "digits", "model": "small_cnn", "attack": attack, "detector": method}
                measures = {"auroc": 0.5 + gap / 6, "tpr_at_fpr_05": gap / 3, "false_alarm_rate": 0.05}
                folder = leave(root, "detect", names, seed, measures=measures)
                save_file({"scores": scores, "suspicious": suspicious}, folder / "scores.safetensors")


def inspected(root: Path, seeds: int = 3) -> None:
    """Runs of `detect` with a detector of backdoored models."""
    generator = np.random.default_rng(2)
    for attack in ("badnets", "blended"):
        for seed in range(seeds):
            names = {"data": "digits", "model": "small_cnn", "attack": attack, "detector": "neural_cleanse"}
            index = {"anomaly_index": 2 + 3 * generator.random(), "clean_twin_anomaly_index": 1 + generator.random()}
            measures = {**index, "flagged_classes": [0], "clean_twin_flagged_classes": [], "false_alarm_rate": 0.0}
            folder = leave(root, "detect", names, seed, measures=measures)
            paint(folder / "figures" / "inverted.png", seed)
            paint(folder / "figures" / "success.png", len(attack))


def tuned(root: Path, seeds: int = 2) -> None:
    """Runs of `degrade` with trajectories, at several numbers of shots."""
    for shots in (10, 100):
        for method, speed in (("none", 1.0), ("safety_mix", 0.3)):
            for seed in range(seeds):
                names = {"data": "toy_world", "model": "toy_chat", "attack": "few_shot", "defence": method}
                end = float(np.exp(-speed * shots / 20 - seed / 10))
                measures = {
                    "refusal_rate_start": 1.0,
                    "refusal_rate_end": end,
                    "utility_end": 0.9,
                    "refusal_auc_log_steps": end,
                }
                half = {"half_life_steps": None, "half_life_censored_at": 64.0} if end > 0.5 else {"half_life_steps": 9.0}
                counts = {"shots": shots, "refusal_rate_end": 50}
                folder = leave(root, "degrade", names, seed, measures={**measures, **half}, counts=counts, rate=shots)
                (folder / "trajectory.csv").write_text("".join(_trajectory(folder.name, shots, end)), encoding="utf-8")


def _trajectory(run: str, shots: int, end: float) -> Iterator[str]:
    yield "run,victim,step,shots,metric,value,n,successes\n"
    for step in (0, 1, 2, 4, 8, 16, 32, 64):
        value = 1 - (1 - end) * step / 64
        yield f"{run},,{step},{shots},refusal_rate,{value!r},50,{round(50 * value)}\n"
        yield f"{run},,{step},{shots},utility,{0.9!r},50,45\n"


def paint(path: Path, shade: int) -> None:
    """A small picture; equal shades give equal files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((12, 96, 3), 20 * shade % 256, dtype=np.uint8)).save(path)


def compared(root: Path) -> tuple[list[Leaderboard], Gathered]:
    """What `testbed report` hands to the page."""
    found = gathered(root, COLUMNS)
    return [board.leaderboard for board in boards_of(root, found)], found
