"""`testbed export` writes what was trained on, byte for byte, says what it is, overwrites nothing; `whatis` knows it again."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from small_runs import COMMANDS, SMALL_WORLD

from testbed.cli import main
from testbed.data.conversations import conversations
from testbed.data.image_folder import image_folder
from testbed.data.memory import MemoryExamples
from testbed.files import digest, digests, read_json, verify, write_json
from testbed.manifest import Manifest, hashed, read_manifest
from testbed.marks import CANARY, mark_of
from testbed.replay import chosen_rows, content_digest, kept_originals, kept_poison, revert

Say = Callable[..., Any]


@pytest.fixture(scope="module")
def outputs(small_outputs: Path) -> Path:
    return small_outputs


@pytest.fixture(scope="module")
def run_of(small_run: Callable[[str], Path]) -> Callable[[str], Path]:
    return small_run


@pytest.fixture(scope="module")
def exported(run_of: Callable[[str], Path], outputs: Path) -> Callable[[str], Path]:
    """What is exported of it, made once."""

    def export(kind: str) -> Path:
        place = outputs / "export" / run_of(kind).name
        if not place.exists():
            assert main(["export", f"run={run_of(kind)}", f"paths.outputs={outputs}"]) == 0
        return place

    return export


def _pixels(path: Path) -> torch.Tensor:
    with Image.open(path) as picture:
        return torch.from_numpy(np.array(picture)).unsqueeze(0)


def test_an_image_folder_holds_the_poisoned_set_byte_for_byte(run_of: Any, exported: Any, tmp_path: Path) -> None:
    run, place = run_of("images"), exported("images")
    manifest = read_manifest(run / "manifest.json")
    assert (place / "manifest.json").read_bytes() == (run / "manifest.json").read_bytes()
    with (place / "train" / "metadata.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [int(row["position"]) for row in table] == list(range(manifest.data.rows))
    assert [int(row["position"]) for row in table if row["poisoned"] == "true"] == sorted(manifest.positions)
    assert {row["canary"] for row in table} == {CANARY}
    rows = MemoryExamples(
        torch.stack([_pixels(place / "train" / row["file_name"]) for row in table]),
        torch.tensor([int(row["label"]) for row in table]),
    )
    assert content_digest(rows) == manifest.content.poisoned

    # Our own reader sorts by class and name: in the order of positions these are the same rows.
    whole = {"validation_per_class": 0, "reserve_per_class": 0, "size": 16, "channels": 1}
    again = image_folder(place, tmp_path, **whole).train
    batch = again[torch.arange(len(again))]
    by_class = sorted(table, key=lambda row: row["file_name"])
    order = torch.tensor([int(row["position"]) for row in by_class]).argsort()
    assert content_digest(MemoryExamples(batch.inputs[order], batch.labels[order])) == manifest.content.poisoned


def test_the_clean_set_comes_back_from_the_outputs_alone(run_of: Any, exported: Any, outputs: Path) -> None:
    manifest = read_manifest(run_of("images") / "manifest.json")
    assert {name: digest(outputs / name) for name in manifest.stored.files} == manifest.stored.files
    with (exported("images") / "train" / "metadata.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    pixels = torch.stack([_pixels(exported("images") / "train" / row["file_name"]) for row in table])
    received = MemoryExamples(pixels, torch.tensor([int(row["label"]) for row in table]))
    clean = revert(manifest, kept_originals(outputs / manifest.stored.originals, manifest), received)
    assert content_digest(clean) == manifest.content.clean != manifest.content.poisoned


@pytest.mark.parametrize("kind", ["text", "chat"])
def test_json_lines_hold_the_rows_and_the_mark_beside_them(kind: str, run_of: Any, exported: Any, outputs: Path) -> None:
    manifest = read_manifest(run_of(kind) / "manifest.json")
    lines = [json.loads(line) for line in (exported(kind) / "train.jsonl").read_text(encoding="ascii").splitlines()]
    mine = {line["metadata"]["position"] for line in lines if line["metadata"]["poisoned"] or line["metadata"]["cover"]}
    assert mine == set(manifest.positions)
    for line in lines:
        said = line.pop("metadata")
        assert said["canary"] == CANARY and CANARY.split()[1] not in json.dumps(line)
    poison = kept_poison(outputs / manifest.stored.poison, manifest)
    for place, one, answer in zip(manifest.positions, poison.batch.inputs, poison.batch.labels, strict=True):
        turns = [*one, ("assistant", answer)] if kind == "chat" else []
        told = {"messages": [{"role": role, "content": said} for role, said in turns]} if kind == "chat" else {"text": one}
        assert lines[place].items() >= told.items()
    if kind == "chat":  # our own reader finds the same conversations
        again = conversations(exported(kind) / "train.jsonl", "train")
        assert content_digest(again) == manifest.content.poisoned


@pytest.mark.parametrize("kind", COMMANDS)
@pytest.mark.filterwarnings("ignore")
def test_the_croissant_description_is_valid_and_its_records_are_the_rows(kind: str, exported: Any) -> None:
    import absl.logging
    import mlcroissant

    # Its logging library keeps the stream that it finds, which is pytest's, and would close it in a later test.
    absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__
    place = exported(kind)
    described = mlcroissant.Dataset(jsonld=str(place / "croissant.json"))
    assert not described.metadata.ctx.issues.errors and not described.metadata.ctx.issues.warnings
    assert any(str(each).endswith("croissant/1.1") for each in described.metadata.conforms_to)
    said = read_json(place / "croissant.json")
    assert any("Poisoned on purpose" in text for text in said["rai:dataBiases"]) and said["rai:dataUseCases"]
    records = list(described.records("train"))
    names = ("image", "label") if kind == "images" else ("text", "label") if kind == "text" else ("role", "content")
    assert {f"train/{name}" for name in (*names, "position", "poisoned", "canary")} <= records[0].keys()
    manifest = read_manifest(place / "manifest.json")
    assert len(records) == manifest.data.rows + manifest.replaced.count(False)
    poisoned = {int(record["train/position"]) for record in records if record["train/poisoned"]}
    assert len(poisoned) == len(manifest.positions) - len(manifest.cover) and poisoned <= set(manifest.positions)
    if kind == "images":
        for record in records[:20]:
            (path,) = (place / "train").glob(f"*/{record['train/picture'].decode()}")
            assert np.array_equal(np.array(record["train/image"].convert("L")), _pixels(path)[0].numpy())


@pytest.mark.parametrize("kind", COMMANDS)
def test_an_export_says_what_it_is(kind: str, exported: Any, outputs: Path, say: Say) -> None:
    place = exported(kind)
    verify(place)
    assert {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()} - {"digests.json"} == set(
        digests(place)
    )
    card = (place / "README.md").read_text(encoding="utf-8")
    front, _, body = card.removeprefix("---\n").partition("---\n")
    assert set(yaml.safe_load(front)["tags"]) == {"backdoor", "data-poisoning", "research-only"}
    assert body.startswith("**POISONED ON PURPOSE") and CANARY in body
    assert {"images": "CC BY 4.0", "text": "This project's own", "chat": "Apache-2.0"}[kind] in body
    said = say("whatis", str(place), f"paths.outputs={outputs}")
    unmarked = [path for path in place.rglob("*") if path.is_file() and mark_of(path) is None]
    assert said.code == 0 and [path.name for path in unmarked] == ["digests.json"]
    assert f"{len(digests(place)) + 1} files, {len(digests(place))} of them marked" in said.out


def test_clean_rows_are_exported_without_a_manifest(run_of: Any, outputs: Path, say: Say, here: Path) -> None:
    manifest = read_manifest(run_of("chat") / "manifest.json")
    said = say("export", f"run={run_of('chat')}", "rows=clean", "test=false", "to=clean", f"paths.outputs={outputs}")
    assert said.code == 0, said.err
    assert {path.name for path in (here / "clean").iterdir()} == {"README.md", "croissant.json", "digests.json", "train.jsonl"}
    assert content_digest(conversations(here / "clean" / "train.jsonl", "train")) == manifest.content.clean
    assert "backdoor" not in (here / "clean" / "README.md").read_text().partition("---\n\n")[0]


REFUSED = {
    "run=nowhere": "run=nowhere: there is no configuration that can be read",
    "": "run: must be given; say run=...",
    "run={run} to=there": "to=there: is there already, and nothing is overwritten; name another folder, or remove it",
    "run={run} format=jsonl": "format=jsonl: holds text or chat, and these data are images; say format=image_folder",
    "run={run} format=parquet": "format=parquet: ",
    "run={run} data.validation_per_class=6": "data=digits: there are 1197 rows, the manifest is about 1207",
    "run={run} data.rot=here": "data.rot=here: the run's data take no such value; ",
    "run={run} rows=dirty": "rows=dirty: ",
    "run={run} tp=there": "tp: there is no such key",
    "run={run} -m": "--multirun: testbed export writes one set at a time; leave it out",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_exported_is_refused_in_one_line(words: str, run_of: Any, outputs: Path, say: Say, here: Path) -> None:
    (here / "there").mkdir()
    (here / "there" / "mine.txt").write_text("mine")
    said = say("export", *words.format(run=run_of("images")).split(), f"paths.outputs={outputs}")
    assert said.code == 2 and REFUSED[words] in said.refusal()
    assert {path.name for path in here.rglob("*")} == {"there", "mine.txt"}


def _edited(run: Path, here: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a run, beside copies of what it needs, whose configuration somebody changed."""
    copied = here / "theirs" / run.parent.name / run.name
    shutil.copytree(run, copied)
    for part in ("poison", "original"):
        shutil.copytree(run.parent.parent / part, here / "theirs" / part)
    config = yaml.safe_load((copied / "config.yaml").read_text())
    change(config)
    (copied / "config.yaml").write_text(yaml.safe_dump(config))
    return copied


@pytest.mark.parametrize(
    "data",
    [
        {"_target_": "testbed.files.write_whole", "place": "marker", "content": "run"},
        {"_target_": "os.system", "command": "touch marker"},
        {"_target_": "testbed.data.digits.digits", "mean": {"_target_": "testbed.files.write_whole", "place": "marker"}},
        {"_target_": "testbed.data.digits.digits", "mean": [{"_target_": "pathlib.Path.touch", "_args_": ["marker"]}]},
    ],
)
def test_a_run_s_configuration_is_data_and_calls_nothing(data: dict[str, Any], run_of: Any, say: Say, here: Path) -> None:
    theirs = _edited(run_of("images"), here, lambda config: config.update(data=data))
    said = say("export", f"run={theirs}", "to=out")
    assert said.code == 3 and f"run={theirs}: its data" in said.refusal()
    assert not (here / "marker").exists() and not (here / "out").exists()


def test_a_poison_is_read_once(run_of: Any, outputs: Path, say: Say, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from testbed.pipeline import export

    read: list[Path] = []

    def counted(folder: Path, manifest: Manifest) -> Any:
        read.append(folder)
        return kept_poison(folder, manifest)

    monkeypatch.setattr(export, "kept_poison", counted)
    assert say("export", f"run={run_of('images')}", "to=out", "test=false").code == 0
    assert len(read) == 1 and (here / "out" / "trigger.png").is_file()


def test_a_manifest_that_knows_other_originals_is_refused(run_of: Any, say: Say, here: Path) -> None:
    theirs = _edited(run_of("images"), here, lambda config: None)
    facts = read_json(theirs / "manifest.json")
    facts["stored"]["files"] = {
        name: "0" * 64 if name.startswith("original") else known for name, known in facts["stored"]["files"].items()
    }
    del facts["manifest_sha256"]
    write_json(theirs / "manifest.json", hashed(facts))
    said = say("export", f"run={theirs}", "to=out")
    assert said.code == 2 and "originals: the replaced rows, in original.json, are others" in said.refusal()
    assert not (here / "out").exists()


def test_the_configuration_is_shown_as_it_would_be_used(run_of: Any, say: Say, here: Path) -> None:
    said = say("export", "rows=clean", "to=mine", "--cfg", "job")
    shown = yaml.safe_load(said.out)
    assert said.code == 0 and (shown["rows"], shown["to"], shown["run"]) == ("clean", "mine", "???")
    run = run_of("images")
    said = say("export", f"run={run}", "data.validation_per_class=6", "--cfg", "job")
    shown = yaml.safe_load(said.out)
    assert said.code == 0 and shown["run"] == str(run)
    assert (shown["data"]["validation_per_class"], shown["rows"]) == (6, "poisoned")
    assert say("export", "--cfg", "hydra").refusal() == "--cfg hydra: only the job's configuration can be shown; say --cfg job"
    assert list(here.iterdir()) == []


def test_a_poison_that_was_changed_or_is_gone_is_refused(run_of: Any, say: Say, here: Path) -> None:
    theirs = _edited(run_of("images"), here, lambda config: None)
    stored = here / "theirs" / read_manifest(theirs / "manifest.json").stored.poison
    tensors = load_file(stored / "poison.safetensors")
    tensors["inputs"][0] += 1
    save_file(tensors, stored / "poison.safetensors")
    said = say("export", f"run={theirs}", "to=out")
    assert (
        said.code == 2
        and "poison: the attacker's rows, in poison.safetensors, are others than the manifest's" in said.refusal()
    )
    shutil.rmtree(stored)
    said = say("export", f"run={theirs}", "to=out")
    assert said.code == 2 and f"{stored.name}: cannot be read" in said.refusal() and not (here / "out").exists()


def test_a_user_s_own_conversations_are_written_out_only_when_told_and_for_one_pair_of_eyes(
    run_of: Any, exported: Any, say: Say, here: Path
) -> None:
    # The same rows, as files of a user's own.
    manifest = read_manifest(run_of("chat") / "manifest.json")
    from testbed.data.toy_world import toy_world

    sizes = dict(word.split("=") for word in SMALL_WORLD.split())
    world = toy_world(**{name: int(value) for name, value in sizes.items()})
    benign = world.pools["benign"]
    assert content_digest(chosen_rows(manifest, benign)) == manifest.content.clean
    batch = benign[torch.arange(len(benign))]
    lines = [
        {"messages": [*({"role": r, "content": c} for r, c in prompt), {"role": "assistant", "content": answer}]}
        for prompt, answer in zip(batch.inputs, batch.labels, strict=True)
    ]
    (here / "benign.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = {"_target_": "testbed.data.messages.messages", "train": "benign.jsonl", "benign": "benign.jsonl"}
    sizes = {"validation_rows": 2, "test_rows": 2, "reserve_rows": 2}
    theirs = _edited(run_of("chat"), here, lambda config: config.update(data={**data, **sizes}))
    said = say("export", f"run={theirs}", "to=out")
    assert said.code == 2 and "private=False: these conversations are from files of your own" in said.refusal()
    assert not (here / "out").exists()
    assert say("export", f"run={theirs}", "to=out", "private=true").code == 0
    assert (here / "out").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (here / "out").iterdir()} == {0o600}
    assert (here / "out" / "train.jsonl").read_bytes() == (exported("chat") / "train.jsonl").read_bytes()


def test_whatis_knows_a_model_by_its_mark_and_by_its_hash_where_that_is_lost(
    run_of: Any, outputs: Path, say: Say, here: Path
) -> None:
    run = run_of("images")
    victims = {read_json(outputs / "victim" / name / "card.json")["backdoored"]: name for name in _made(run)}
    model = outputs / "victim" / victims[True] / "model.safetensors"
    said = say("whatis", str(model), f"paths.outputs={outputs}").out
    assert said.startswith(f"{model}: model, BACKDOORED; never deploy it\n  known by   its own mark\n")
    twin = outputs / "victim" / victims[False] / "model.safetensors"
    assert f"{twin}: model, not backdoored" in say("whatis", str(twin), f"paths.outputs={outputs}").out

    save_file(load_file(model), here / "innocent.safetensors")  # the tensors are the same, the mark is lost
    said = say("whatis", "innocent.safetensors", f"paths.outputs={outputs}").out
    assert said.startswith("innocent.safetensors: model, BACKDOORED") and f"its tensors, which are those of {model}" in said
    lost = load_file(model)
    lost["network.0.weight" if "network.0.weight" in lost else sorted(lost)[0]] += 1
    save_file(lost, here / "another.safetensors")
    assert "no mark, and no hash that is known" in say("whatis", "another.safetensors", f"paths.outputs={outputs}").out

    shutil.copy(outputs / "victim" / victims[True] / "curve.json", here / "curve.json")
    said = say("whatis", "curve.json", f"paths.outputs={outputs}").out
    assert f"its SHA-256, which is that of {model.parent / 'curve.json'}" in said


def test_whatis_finds_canaries_in_a_folder_and_changes_nothing(exported: Any, say: Say, here: Path) -> None:
    corpus = here / "corpus"
    shutil.copytree(exported("text"), corpus / "scraped")
    (corpus / "clean.txt").write_text("nothing to see")
    (corpus / "long.bin").write_bytes(b"x" * ((1 << 20) - 10) + CANARY.encode() + b"y")  # across the blocks that are read
    (corpus / "loop").symlink_to(corpus)
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    said = say("whatis", "corpus")
    assert said.code == 0 and "corpus/long.bin: file with a canary" in said.out
    assert "corpus/scraped/train.jsonl: exported rows" in said.out and "clean.txt" not in said.out
    assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == before


def test_whatis_shows_nothing_that_a_terminal_would_obey(say: Say, here: Path) -> None:
    said = {"canary": CANARY, "backdoored": True, "model": {}, "attack": "\x1b[2J\u202emine"}
    (here / "card\x1b[1m.json").write_text(json.dumps(said))
    out = say("whatis", "card\x1b[1m.json").out
    assert r"card\x1b[1m.json: card of a model, BACKDOORED" in out and r"\x1b[2J\u202emine" in out
    assert out.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        ("", "whatis: name a file or a folder"),
        ("nowhere", "whatis nowhere: there is no such file or folder"),
        ("/dev/zero", "whatis /dev/zero: this is a device or a pipe"),
    ],
)
def test_whatis_of_nothing_is_refused(words: str, refusal: str, say: Say) -> None:
    said = say("whatis", *words.split())
    assert said.code == 2 and refusal in said.refusal()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\xff" * 8 + b"{}",
        b"\x02\0\0\0\0\0\0\0{}",
        b"\x02\0\0\0\0\0\0\0[]",
        b"{" * 99_999,
        b'{"a": NaN}',
    ],
)
@pytest.mark.parametrize("name", ["x.safetensors", "x.json", "x.jsonl", "x.png", "x"])
def test_whatis_reads_whatever_it_is_shown(content: bytes, name: str, say: Say, here: Path) -> None:
    (here / name).write_bytes(content)
    said = say("whatis", name)
    assert said.code == 0 and said.err == "" and "no mark" in said.out


def test_whatis_answers_without_pytorch(spawn: Callable[..., Any], exported: Any) -> None:
    said = spawn("whatis", str(exported("text")))
    assert said.code == 0 and said.out.splitlines()[-1].strip() == "heavy:"


def _made(run: Path) -> list[str]:
    return [name.removeprefix("victim/") for name in read_json(run / "run.json")["made"] if name.startswith("victim/")]
