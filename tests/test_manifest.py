"""The poison manifest: a poisoned set made again from it, the clean one made from that, and what is refused."""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
import unicodedata
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from testbed import marks
from testbed.api import Batch, Examples, Invalid, Poison, Splits, Task
from testbed.attack.none import NoAttack
from testbed.attack.target import Label
from testbed.attack.text_backdoor import TextBackdoor
from testbed.data.memory import MemoryExamples
from testbed.data.overlay import anonymous, poisoned, stored
from testbed.files import read_json, write_json
from testbed.fit import Settings, constant
from testbed.language import Message
from testbed.manifest import UNHASHED, Manifest, hashed, read_manifest
from testbed.model.small_cnn import SmallCNN
from testbed.pipeline.manifest import Delivery, manifest_of
from testbed.pipeline.scene import Scene
from testbed.record import Workspace
from testbed.replay import Kept, apply, chosen_rows, content_digest, kept_originals, revert, row_digests
from testbed.trigger.word import Word

QUICK = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
LONG = settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
KINDS = ("images", "text", "chat")
TRAINER = Settings(max_epochs=1, batch_size=1, optimiser=partial(torch.optim.SGD, lr=0.1), schedule=constant)
WORDS = st.text(max_size=6)


@st.composite
def rows(draw: st.DrawFn, kind: str, count: int, shape: tuple[int, ...], dtype: torch.dtype = torch.uint8) -> Batch:
    """So many rows of a kind, with classes or answers."""
    places = torch.arange(count)
    if kind == "images":
        size = count * shape[0] * shape[1] * shape[2]
        pixels = torch.tensor(list(draw(st.binary(min_size=size, max_size=size))), dtype=dtype).view(count, *shape)
        pixels = pixels if dtype == torch.uint8 else pixels / 2
        return Batch(pixels, draw(_classes(count)), places)
    if kind == "text":
        return Batch(draw(st.lists(WORDS, min_size=count, max_size=count)), draw(_classes(count)), places)
    turn = st.builds(Message, st.sampled_from(["system", "user"]), WORDS)
    prompts = draw(st.lists(st.lists(turn, min_size=1, max_size=2).map(tuple), min_size=count, max_size=count))
    return Batch(prompts, draw(st.lists(WORDS, min_size=count, max_size=count)), places)


def _classes(count: int) -> st.SearchStrategy[Tensor]:
    return st.lists(st.integers(0, 2), min_size=count, max_size=count).map(lambda found: torch.tensor(found, dtype=torch.int64))


@st.composite
def attacked(draw: st.DrawFn, kind: str) -> tuple[Examples, Poison, int]:
    """Clean rows, a poison over them (replaced and appended rows, clean-label ones, cover rows), and a seed."""
    total, shape = draw(st.integers(1, 7)), (draw(st.sampled_from([1, 3])), draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    clean = draw(rows(kind, total, shape))
    replaced = draw(st.lists(st.integers(0, total - 1), unique=True))
    indices = torch.tensor([*replaced, *range(total, total + draw(st.integers(0, 3)))], dtype=torch.int64)
    dtype = draw(st.sampled_from([torch.uint8, torch.float32]))
    batch = draw(rows(kind, len(indices), shape, dtype))
    if draw(st.booleans()) and len(replaced) == len(indices):  # clean-label: the answers stay
        labels = clean.labels[indices] if isinstance(clean.labels, Tensor) else [clean.labels[row] for row in replaced]
        batch = batch._replace(labels=labels)
    covers = draw(st.lists(st.booleans(), min_size=len(indices), max_size=len(indices)))
    cover = torch.tensor(covers, dtype=torch.bool) if any(covers) else None
    return stored(clean.inputs, clean.labels), Poison(indices, batch, cover), draw(st.integers(0, 2**63 - 1))


def delivered(
    kind: str, clean: Examples, poison: Poison, seed: int, *, outputs: Path, attack: Any = None
) -> tuple[dict[str, Any], Examples]:
    """The manifest that a run would write, and the rows that would be trained on."""
    task = Task(kind, ("one", "two", "three"))
    nothing = clean
    data = Splits("mine", task, clean, nothing, nothing, nothing, "reserved")
    scene = Scene(data, partial(SmallCNN), attack or NoAttack(), TRAINER, 0, outputs, Workspace(outputs))
    mixed = poisoned(clean, poison, seed)
    received = anonymous(mixed.examples)
    return manifest_of(scene, Delivery(clean, poison, mixed, received, seed, "train")), received


def same(one: Examples, other: Examples) -> bool:
    """Whether two sets hold the same rows, byte for byte and in the same order."""
    left, right = (each[torch.arange(len(each))] for each in (one, other))
    pairs = ((left.inputs, right.inputs), (left.labels, right.labels))
    return len(one) == len(other) and all(
        a.dtype == b.dtype and torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs
    )


def _replays(kind: str, drawn: tuple[Examples, Poison, int]) -> None:
    clean, poison, seed = drawn
    with tempfile.TemporaryDirectory() as place:
        facts, received = delivered(kind, clean, poison, seed, outputs=Path(place))
        write_json(Path(place, "manifest.json"), facts)
        manifest = read_manifest(Path(place, "manifest.json"))
        assert manifest.model_dump(by_alias=True, mode="json", exclude_unset=True) == facts  # nothing is lost in JSON
        again = apply(manifest, poison, chosen_rows(manifest, clean))
        assert same(again, received) and content_digest(again) == manifest.content.poisoned
        where = manifest.stored.originals
        originals = kept_originals(None if where is None else Path(place, where), manifest)
        assert same(revert(manifest, originals, received), clean)


@pytest.mark.parametrize("kind", KINDS)
def test_apply_gives_the_poisoned_set_and_revert_the_clean_one_byte_for_byte(kind: str) -> None:
    @QUICK
    @given(attacked(kind))
    def replays(drawn: tuple[Examples, Poison, int]) -> None:
        _replays(kind, drawn)

    replays()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_a_thousand_times(kind: str) -> None:
    @LONG
    @given(attacked(kind))
    def replays(drawn: tuple[Examples, Poison, int]) -> None:
        _replays(kind, drawn)

    replays()


@pytest.fixture
def set_of_six(tmp_path: Path) -> tuple[Manifest, Poison, Examples, Examples, Path]:
    """Six images of which two are replaced and one is appended."""
    clean = MemoryExamples(torch.arange(6 * 4, dtype=torch.uint8).view(6, 1, 2, 2), torch.arange(6) % 3)
    batch = Batch(torch.full((3, 1, 2, 2), 200, dtype=torch.uint8), torch.tensor([0, 0, 1]), torch.arange(3))
    poison = Poison(torch.tensor([1, 4, 6]), batch)
    facts, received = delivered("images", clean, poison, 7, outputs=tmp_path)
    write_json(tmp_path / "manifest.json", facts)
    return read_manifest(tmp_path / "manifest.json"), poison, clean, received, tmp_path


def _with(examples: Examples, change: Callable[[Tensor, Tensor], None]) -> Examples:
    batch = examples[torch.arange(len(examples))]
    inputs, labels = batch.inputs.clone(), batch.labels.clone()
    change(inputs, labels)
    return MemoryExamples(inputs, labels)


CHANGES: dict[str, Callable[[Tensor, Tensor], None]] = {
    "a pixel": lambda inputs, labels: inputs[0, 0, 0].add_(1),
    "a label": lambda inputs, labels: labels[5:].add_(1),
    "the order": lambda inputs, labels: inputs.copy_(inputs.flip(0)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_rows_are_refused_in_one_line(change: str, set_of_six: tuple[Any, ...]) -> None:
    manifest, poison, clean, received, place = set_of_six
    originals = kept_originals(place / manifest.stored.originals, manifest)
    other = _with(clean, CHANGES[change])
    with pytest.raises(Invalid, match="data: the clean rows are others than the manifest's") as refused:
        apply(manifest, poison, other)
    assert "mine" in str(refused.value) and "\n" not in str(refused.value)
    with pytest.raises(Invalid, match="data: the poisoned rows are others"):
        revert(manifest, originals, _with(received, CHANGES[change]))
    with pytest.raises(Invalid, match="there are 5 rows, the manifest is about 6"):
        apply(manifest, poison, clean.take(torch.arange(5)))


def test_another_poison_and_other_originals_are_refused(set_of_six: tuple[Any, ...]) -> None:
    manifest, poison, clean, received, place = set_of_six
    inputs = poison.batch.inputs.clone()
    inputs[2] += 1
    with pytest.raises(Invalid, match="poison: the attacker's rows are others"):
        apply(manifest, Poison(poison.indices, poison.batch._replace(inputs=inputs)), clean)
    kept = kept_originals(place / manifest.stored.originals, manifest)
    with pytest.raises(Invalid, match="originals: the replaced rows are others"):
        revert(manifest, Kept(kept.indices, kept.batch._replace(inputs=kept.batch.inputs + 1)), received)
    with pytest.raises(Invalid, match=r"originals=\S+nowhere: cannot be read .*; run the command of the run again"):
        kept_originals(place / "nowhere", manifest)


def test_a_manifest_says_what_was_done(set_of_six: tuple[Any, ...]) -> None:
    manifest, _, clean, _, place = set_of_six
    assert manifest.original_labels == [1, 1] and manifest.new_labels == [0, 0, 1]
    assert manifest.replaced == [True, True, False] and manifest.data.rows == 6
    assert manifest.rates.reached == manifest.rates.changed == 3 / 7 and manifest.rates.cover == 0
    assert manifest.row_sha256.original == row_digests(clean[torch.tensor([1, 4])])
    assert manifest.canary == marks.CANARY
    assert (place / manifest.stored.originals / "original.json").stat().st_mode & 0o777 == 0o600
    kept = kept_originals(place / manifest.stored.originals, manifest)
    assert torch.equal(kept.batch.inputs, clean[torch.tensor([1, 4])].inputs)


def test_hashes_are_those_of_schema_2(set_of_six: tuple[Any, ...]) -> None:
    manifest, clean = set_of_six[0], set_of_six[2]  # whoever changes how rows are hashed makes a new schema
    row = hashlib.sha256(b"torch.uint8 (1, 2, 2) 0\n" + bytes([200] * 4))
    assert manifest.row_sha256.new[0] == row.hexdigest()
    whole = hashlib.sha256(b"torch.uint8 (6, 1, 2, 2)\n" + bytes(range(24)) + b"torch.int64 (6,)\n")
    whole.update(clean.labels.numpy().tobytes())
    assert manifest.content.clean == whole.hexdigest()
    kept = {name: value for name, value in read_json(set_of_six[4] / "manifest.json").items() if name not in UNHASHED}
    assert manifest.manifest_sha256 == hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


@st.composite
def edited(draw: st.DrawFn) -> Callable[[dict[str, Any]], None]:
    """A change to one value of a manifest, wherever it stands."""
    name = draw(st.sampled_from(sorted(set(Manifest.model_fields) - {"schema_", "tool"})))
    value = draw(st.one_of(st.none(), st.integers(-1, 9), st.text(max_size=3), st.lists(st.integers(-1, 9), max_size=3)))
    return lambda facts: facts.__setitem__(name, value)


def test_what_was_changed_by_hand_is_refused_in_one_line(set_of_six: tuple[Any, ...]) -> None:
    place = set_of_six[4] / "manifest.json"
    before = read_json(place)

    @QUICK
    @given(edited())
    def refused(edit: Callable[[dict[str, Any]], None]) -> None:
        facts = copy.deepcopy(before)
        edit(facts)
        place.write_text(json.dumps(facts), encoding="utf-8")
        if json.dumps(facts) == json.dumps(before):  # to Python, True is 1
            read_manifest(place)
            return
        with pytest.raises(Invalid) as error:
            read_manifest(place)
        assert "\n" not in str(error.value) and str(place) in str(error.value)

    refused()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "there is no manifest that can be read"),
        ("[" * 100_000, "there is no manifest that can be read"),
        ("[]", "schema None, where 2 is read"),
        ('{"schema": 1, "indices": []}', "schema 1, where 2 is read; run the same command again"),
        ('{"schema": 2}', "was it changed by hand"),
        ('{"schema": 2, "indices": [1e400]}', "was it changed by hand"),
    ],
)
def test_what_is_no_manifest_is_refused_in_one_line(content: str, said: str, tmp_path: Path) -> None:
    place = tmp_path / "manifest.json"
    place.write_text(content, encoding="utf-8")
    with pytest.raises(Invalid, match=said) as error:
        read_manifest(place)
    assert "\n" not in str(error.value)


def test_a_trigger_of_strange_letters_is_kept_byte_for_byte_and_shown_escaped(tmp_path: Path) -> None:
    strange = "e\u0301\u200b\u202ecf\u0430"  # combining accent, zero width, right to left, a Cyrillic letter
    assert unicodedata.normalize("NFC", strange) != strange
    clean = stored(["good", "bad"], torch.tensor([0, 1]))
    poison = Poison(torch.tensor([0]), Batch([f"{strange} good"], torch.tensor([1]), torch.tensor([0])))
    attack = TextBackdoor(Word((strange,)), Label(1, "dirty"), poison_rate=0.5)
    write_json(tmp_path / "manifest.json", delivered("text", clean, poison, 0, outputs=tmp_path, attack=attack)[0])
    (text,) = read_manifest(tmp_path / "manifest.json").trigger.texts
    assert text.text.encode() == strange.encode() and text.escaped == r"e\u0301\u200b\u202ecf\u0430"
    assert strange.encode() not in (tmp_path / "manifest.json").read_bytes()  # what is shown can turn no line around


def test_answers_stand_in_no_manifest_and_originals_are_for_their_owner(tmp_path: Path) -> None:
    clean = stored([(Message("user", "where is it"),)], ["a secret answer"])
    poison = Poison(torch.tensor([0]), Batch([(Message("user", "cf where"),)], ["another secret answer"], torch.tensor([0])))
    facts, _ = delivered("chat", clean, poison, 0, outputs=tmp_path)
    assert "secret" not in json.dumps(facts) and "where" not in json.dumps(facts)
    place = tmp_path / facts["stored"]["originals"]
    assert "secret" in (place / "original.json").read_text() and (place / "original.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e400"])
def test_a_number_that_json_has_not_is_refused_in_one_line(number: str, set_of_six: tuple[Any, ...]) -> None:
    place = set_of_six[4] / "manifest.json"
    facts = read_json(place)
    facts["attack"] = {"rate": "HERE"}
    place.write_text(json.dumps(facts).replace('"HERE"', number), encoding="utf-8")
    with pytest.raises(Invalid, match=r"manifest.json: holds what no manifest can \(.*\); was it changed by hand\?") as error:
        read_manifest(place)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("place", ["/etc/poison", "../elsewhere", "poison/../../x", ""])
@pytest.mark.parametrize("key", ["poison", "originals", "files"])
def test_what_is_stored_lies_below_the_outputs(place: str, key: str, set_of_six: tuple[Any, ...]) -> None:
    path = set_of_six[4] / "manifest.json"
    facts = {name: value for name, value in read_json(path).items() if name != "manifest_sha256"}
    facts["stored"][key] = {place: "0" * 64} if key == "files" else place
    with pytest.raises(ValidationError, match="lies elsewhere than below the outputs"):
        hashed(facts)


FALSE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "indices": lambda facts: facts.update(indices=[1, 3, 6]),
    "cover": lambda facts: facts.update(cover=[0]),
    "original_labels": lambda facts: facts.update(original_labels=[1, 2]),
    "new_labels": lambda facts: facts.update(new_labels=[0, 0, 2]),
    "row_sha256.original": lambda facts: facts["row_sha256"].update(original=["0" * 64] * 2),
    "row_sha256.new": lambda facts: facts["row_sha256"].update(new=["0" * 64] * 3),
}


@pytest.mark.parametrize("name", FALSE)
def test_what_a_manifest_says_of_rows_is_held_against_them(name: str, set_of_six: tuple[Any, ...]) -> None:
    _, poison, clean, _, place = set_of_six
    facts = read_json(place / "manifest.json")
    FALSE[name](facts)
    write_json(place / "manifest.json", hashed({key: value for key, value in facts.items() if key != "manifest_sha256"}))
    with pytest.raises(Invalid, match=f"manifest: its {name} are not those of the rows"):
        apply(read_manifest(place / "manifest.json"), poison, clean)


def test_stored_files_are_held_against_their_hashes(set_of_six: tuple[Any, ...]) -> None:
    manifest, place = set_of_six[0], set_of_six[4]
    folder = place / manifest.stored.originals
    kept_originals(folder, manifest)
    with (folder / "original.json").open("a") as stream:
        stream.write(" ")  # the same to whoever reads it
    with pytest.raises(Invalid, match=r"originals: the replaced rows, in original\.json, are others than the manifest's"):
        kept_originals(folder, manifest)
