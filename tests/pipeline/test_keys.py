"""A test for each sentence of the architecture about records, keys, shared victims and seeds."""

from __future__ import annotations

import importlib
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from testbed import identity, source
from testbed.attack.none import NoAttack
from testbed.defence.filter import Filter
from testbed.defence.fine_tuning import FineTuning
from testbed.defence.oracle_filter import OracleFilter
from testbed.defence.rule import Published
from testbed.detector.activation_clustering import ActivationClustering
from testbed.detector.spectral_signatures import SpectralSignatures
from testbed.files import read_json
from testbed.fit import Settings
from testbed.model.image import ImageVictim
from testbed.model.small_cnn import SmallCNN
from testbed.pipeline.detect import detect
from testbed.record import Origin

from .conftest import SGD, World


def test_a_run_leaves_its_configuration_result_provenance_answers_manifest_and_figures(world: World) -> None:
    folder = world()
    assert folder.parent == world.outputs / "train"
    names = {path.name for path in folder.iterdir()}
    files = {"config.yaml", "digests.json", "result.json", "run.json", "answers.safetensors", "manifest.json"}
    assert names == files | {"figures"}
    result, run = read_json(folder / "result.json"), read_json(folder / "run.json")
    assert result["status"] == "done" and result["reason"] is None
    assert result["counts"]["clean_accuracy"] == 100 and result["counts"]["poisoned"] == 20
    assert {"seconds", "peak_memory", "reused", "versions", "device", "commit", "command"} <= run.keys()
    assert min(run["seconds"].values()) >= 0 and min(run["peak_memory"].values()) > 10**6


def test_repeating_a_run_elsewhere_gives_the_same_result_bytes(world: World, tmp_path: Path) -> None:
    first = world()
    second = world(paths={"outputs": str(tmp_path / "elsewhere")})
    assert first.name == second.name  # no path in any key
    assert (first / "result.json").read_bytes() == (second / "result.json").read_bytes()
    third = world(defence=FineTuning(1, SGD))  # a reused victim measures as the one that was just trained
    measures = read_json(third / "result.json")["measures"]
    assert measures["undefended_clean_accuracy"] == read_json(first / "result.json")["measures"]["clean_accuracy"]


def test_the_same_command_again_runs_nothing(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    first = world()
    stamp = (first / "result.json").stat().st_mtime_ns
    assert world() == first and (first / "result.json").stat().st_mtime_ns == stamp
    assert "already done, nothing was run" in capsys.readouterr().out


def test_defences_after_training_and_detectors_share_one_victim(world: World) -> None:
    world()
    tuned = world(defence=FineTuning(1, SGD))
    assert len(world.made(tuned)) == 1 and len(world.reused(tuned)) == 2  # made: the tuned one; reused: victim and clean twin
    parts = {name: value for name, value in world.parts.items() if name != "defence"}
    found = detect(**parts, detector=SpectralSignatures())
    assert world.made(found) == [] and len(world.reused(found)) == 2


def test_two_runs_without_poison_share_one_clean_victim_with_every_twin(world: World) -> None:
    clean = world(attack=NoAttack())
    assert len(world.made(clean)) == 1
    assert world.made(world(attack=NoAttack(poison_rate=0.3, target_label=2))) == world.made(clean)  # the very same run
    poisoned = world()
    assert world.made(clean)[0] in world.reused(poisoned) and len(world.made(poisoned)) == 1


def test_a_filter_s_first_model_is_the_undefended_victim(world: World) -> None:
    folder = world(defence=Filter(ActivationClustering(components=2), Published()))
    assert len(world.made(folder)) <= 3  # victim, filtered victim, twin: the first model was not trained twice
    assert len(world.reused(folder)) >= 1


def test_a_defence_that_acts_in_training_has_a_victim_of_its_own(world: World) -> None:
    undefended = world(attack=NoAttack())
    folder = world(attack=NoAttack(), defence=OracleFilter())  # removes nothing, and yet its training is another one
    assert len(world.made(folder)) == 1 and world.made(undefended)[0] in world.reused(folder)


def test_every_victim_is_marked(world: World) -> None:
    world()
    marks = {}
    for card in (world.outputs / "victim").glob("*/card.json"):
        with safe_open(card.parent / "model.safetensors", "pt") as stored:
            marks[stored.metadata()["backdoored"]] = (card.parent / "README.md").read_text()
        assert read_json(card)["canary"].startswith("testbed-canary")
    assert set(marks) == {"true", "false"} and "Never deploy" in marks["true"]


def test_what_is_made_from_a_marked_file_is_marked(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    first = world()
    files = {read_json(world.outputs / name / "card.json")["backdoored"]: world.outputs / name for name in world.made(first)}
    for marked, kept in files.items():
        weights = str(kept / "model.safetensors")
        capsys.readouterr()
        again = world(model=partial(ImageVictim, network=partial(SmallCNN, width=4), weights=weights), attack=NoAttack())
        told = f"model.weights={weights}: this file is marked as backdoored; everything made from it is too\n"
        assert capsys.readouterr().err == (told if marked else "")  # one line, though the victim is built many times
        (made,) = world.made(again)  # the clean twin, which is the victim where nobody attacks
        assert read_json(world.outputs / made / "card.json")["backdoored"] is marked
        with safe_open(world.outputs / made / "model.safetensors", "pt") as stored:
            assert stored.metadata()["backdoored"] == str(marked).lower()
        assert ("Never deploy" in (world.outputs / made / "README.md").read_text()) is marked


def test_a_run_is_named_after_its_data(world: World) -> None:
    named = replace(world.splits, name="mine")
    origin = Origin(names={"attack": "badnets", "defence": "none", "data": "arrays"})
    assert world(data=named, origin=origin).name.startswith("badnets-none-mine-s0-")


def test_all_defences_meet_the_same_poison(world: World) -> None:
    one, other = world(), world(defence=FineTuning(1, SGD))
    assert (one / "manifest.json").read_bytes() == (other / "manifest.json").read_bytes()
    assert world.reused(other, "poison") == world.made(one, "poison")


@pytest.mark.parametrize("change", ["seed", "epochs", "data", "attack"])
def test_values_and_contents_change_the_key(world: World, change: str) -> None:
    data = replace(world.splits, train=world.splits.train.take(torch.arange(1, 200)))
    parts = {
        "seed": {"seed": 1},
        "epochs": {"trainer": replace(world.parts["trainer"], max_epochs=2)},
        "data": {"data": data},
        "attack": {"attack": replace(world.parts["attack"], poison_rate=0.05)},
    }[change]
    assert world().name.rpartition("-")[2] != world(**parts).name.rpartition("-")[2]


def test_seeds_are_separate_by_purpose() -> None:
    purposes = ["attack", "initialisation", "training", "delivery", "defence", "rows", "order", "trigger"]
    seeds = {identity.derive(seed, purpose) for seed in range(50) for purpose in purposes}
    assert len(seeds) == 50 * len(purposes) and max(seeds) < 2**63


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A defence in a file of the user's, and a way to edit it."""
    code = "from testbed.api import Defence\nclass Mine(Defence):\n    'Mine.'\n"
    monkeypatch.syspath_prepend(tmp_path)

    def write(comment: str):
        (tmp_path / "mine_edited.py").write_text(code + comment)
        sys.modules.pop("mine_edited", None)
        importlib.invalidate_caches()
        source._imports.cache_clear()
        source._file.cache_clear()
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        return importlib.import_module("mine_edited").Mine()

    yield write
    sys.modules.pop("mine_edited", None)


def test_editing_a_plug_in_reruns_only_it_and_names_the_old_run(
    world: World, plugin, capsys: pytest.CaptureFixture[str]
) -> None:
    first, other = world(defence=plugin("")), world()
    capsys.readouterr()
    second = world(defence=plugin("# edited\n"))
    said = capsys.readouterr().out
    assert second != first and world.made(second) == []  # no victim was trained again
    assert f"stale: {first.name} has these settings, but mine_edited changed since" in said
    assert world() == other and "already done" in capsys.readouterr().out


def test_changed_data_make_a_record_stale(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    first = world()
    rows = torch.arange(200).flip(0)  # as many rows of the same name, in another order
    world(data=replace(world.splits, train=world.splits.train.take(rows)))
    assert f"stale: {first.name} has these settings, but the data changed since" in capsys.readouterr().out


def test_only_code_that_takes_part_is_hashed(world: World) -> None:
    taking_part = set(read_json(world() / "run.json")["sources"])
    assert {"testbed.attack.backdoor", "testbed.trigger.patch", "testbed.fit", "testbed.model.small_cnn"} <= taking_part
    others = {
        "testbed.cli",
        "testbed.table",
        "testbed.figure",
        "testbed.attack.none",
        "testbed.defence.filter",
        "testbed.model.resnet20",
    }
    assert not taking_part & others and not [name for name in taking_part if not name.startswith("testbed.")]


def test_a_file_is_its_contents_wherever_it_lies(tmp_path: Path) -> None:
    one, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    one.write_bytes(b"weights")
    other.write_bytes(b"weights")
    assert identity.describe(str(one)) == identity.describe(other) == identity.describe(Path(one))
    other.write_bytes(b"other")
    assert identity.describe(str(one)) != identity.describe(str(other))


class Tuned(FineTuning):
    """Trains with an optimiser that nobody can tell from another."""

    def after_training(self, victim, resources):
        return resources.fit(victim, resources.reserve, epochs=1, optimiser=lambda rows: torch.optim.SGD(rows, lr=self.epochs))


def test_a_closure_is_not_shared_with_another(world: World) -> None:
    one, other = (world(defence=Tuned(rate, SGD)) for rate in (1, 3))
    assert read_json(one / "result.json")["measures"] != read_json(other / "result.json")["measures"]
    with pytest.raises(TypeError, match="cannot be told from others"):
        identity.describe(lambda: None)


def test_the_schedule_s_source_is_part_of_the_victim(world: World, plugin) -> None:
    def schedule(body: str) -> Settings:
        plugin(f"\ndef schedule(done):\n    return {body}\n")
        return replace(world.parts["trainer"], schedule=sys.modules["mine_edited"].schedule)

    first = world(trainer=schedule("1.0"))
    second = world(trainer=schedule("0.0001"))
    assert len(world.made(second)) == 2 and not set(world.made(second)) & set(world.made(first))


def test_a_plug_in_s_own_package_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "packaged_idea"
    (package / "defence").mkdir(parents=True)
    for place in (package, package / "defence"):
        (place / "__init__.py").touch()
    (package / "common.py").write_text("RATE = 1\n")
    (package / "defence" / "idea.py").write_text(
        "from testbed.api import Defence\nfrom packaged_idea.common import RATE\nclass Idea(Defence):\n    rate = RATE\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = identity.sources(importlib.import_module("packaged_idea.defence.idea").Idea())
    assert {"packaged_idea.defence.idea", "packaged_idea.common"} <= set(found)


def test_what_a_killed_run_left_is_swept(world: World) -> None:
    folder = world()
    left = folder.with_name(f".{folder.name}.123.dead")
    left.mkdir()
    shutil.rmtree(folder)
    assert world() == folder and not left.exists()
