"""Honest files come out as they went in; damaged ones, of whatever kind, end in one line and never in a traceback."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from torch import Tensor, nn

from testbed.error import Invalid
from testbed.untrusted import checkpoint, content, header, limits, opened, private
from testbed.untrusted.plain import Plain, printable
from testbed.untrusted.verdict import Unsafe, Wrong
from testbed.words import Refused

ROOT = Path(__file__).resolve().parents[2]
STATE = {
    "layer.weight": torch.arange(12.0).reshape(3, 4),
    "layer.bias": torch.zeros(3).bfloat16(),
    "mask": torch.tensor([True, False]),
    "count": torch.tensor(7),
    "nothing": torch.empty(0, 3),
}
BACKDOORBENCH = {
    **{"model_name": "preactresnet18", "num_classes": 10, "model": STATE, "data_path": "../data", "img_size": (32, 32, 3)},
    **{"clean_data": "cifar10", "bd_test": {"x": torch.zeros(2, 3), "y": torch.zeros(2)}},
    "bd_train": {
        "bd_data_container": {"save_folder_path": "x", "data_dict": {np.int64(3): {"path": "3.png", "other_info": [0, 1]}}},
        **{"poison_indicator": np.zeros(50), "original_index_array": np.arange(50), "getitem_all": True},
    },
}
ADAPTER = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "auto_mapping": None}


def saved(value: Any, *, modern: bool = True) -> bytes:
    place = io.BytesIO()
    torch.save(value, place, _use_new_zipfile_serialization=modern)
    return place.getvalue()


def same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return list(found) == list(wanted) and all(
        torch.equal(found[name], value) and found[name].dtype == value.dtype and found[name].shape == value.shape
        for name, value in wanted.items()
    )


def test_safetensors_with_its_metadata(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.safetensors", {"backdoored": "true", "note": "\x1b[2J"})
    found = opened(tmp_path / "w.safetensors")
    assert {name: value.tolist() for name, value in found.tensors.items()} == {
        name: value.tolist() for name, value in STATE.items()
    }
    assert found.kind == "safetensors" and found.facts == {"backdoored": "true", "note": "\\x1b[2J"}
    assert found.sha256 == hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()


def test_backdoorbench_s_result_of_an_attack(tmp_path: Path) -> None:
    (tmp_path / "attack_result.pt").write_bytes(saved(BACKDOORBENCH))
    found = opened(tmp_path / "attack_result.pt", declared="backdoorbench")
    assert same(found.tensors, STATE) and found.kind == "backdoorbench"
    assert found.facts == {
        **{"model_name": "preactresnet18", "num_classes": 10, "data_path": "../data", "img_size": [32, 32, 3]},
        **{"clean_data": "cifar10", "left_out": ["bd_test", "bd_train"]},
    }


@pytest.mark.slow  # each imports torch once more
@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize(
    ("value", "facts"),
    [
        (OrderedDict(STATE), {}),
        ({f"module.{name}": value for name, value in STATE.items()}, {"prefix": "module."}),
        ({"state_dict": STATE, "epoch": np.int64(3), "best": np.float64(0.5)}, {"epoch": 3, "best": 0.5}),
        (
            {"model": STATE, "rows": np.arange(3), "optimizer": {}},
            {"rows": {"array": "i8", "shape": [3]}, "left_out": ["optimizer"]},
        ),
    ],
)
def test_state_dicts_as_frameworks_keep_them(tmp_path: Path, value: Any, facts: dict[str, Any], modern: bool) -> None:
    (tmp_path / "w.pth").write_bytes(saved(value, modern=modern))
    found = opened(tmp_path / "w.pth")
    assert same(found.tensors, STATE) and found.facts == facts and found.kind == "state_dict"


@pytest.mark.slow
def test_parameters_and_tied_weights(tmp_path: Path) -> None:
    tied = nn.Linear(3, 3)
    (tmp_path / "w.pt").write_bytes(saved({"a": tied.weight, "b": tied.weight, "c": tied.weight.t()}))
    found = opened(tmp_path / "w.pt")
    assert torch.equal(found.tensors["c"], tied.weight.detach().t()) and not found.tensors["a"].requires_grad


def test_an_adapter_s_folder(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(ADAPTER))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    save_file(STATE, tmp_path / "adapter_model.safetensors", {"format": "pt"})
    found = opened(tmp_path, declared="peft")
    assert found.kind == "peft" and set(found.tensors) == set(STATE)
    assert found.facts == {**ADAPTER, "metadata": {"format": "pt"}, "left_out": ["tokenizer_config.json"]}
    listed = subprocess.run(
        ["sha256sum", "adapter_config.json", "adapter_model.safetensors"], cwd=tmp_path, capture_output=True, check=True
    )
    assert found.sha256 == hashlib.sha256(listed.stdout).hexdigest()


def test_what_is_asked_for_must_be_what_it_is(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.safetensors")
    with pytest.raises(Invalid, match="is safetensors, not backdoorbench"):
        opened(tmp_path / "w.safetensors", declared="backdoorbench")
    with pytest.raises(Invalid, match="must be one of"):
        opened(tmp_path / "w.safetensors", declared="gguf")
    with pytest.raises(Invalid, match="no such file"):
        opened(tmp_path / "v.safetensors")


def test_a_file_that_is_swapped_after_the_copy_changes_nothing(tmp_path: Path) -> None:
    place = tmp_path / "w.safetensors"
    save_file(STATE, place)
    before = place.read_bytes()
    with private.copied(place) as copy:
        place.write_bytes(b"something else")
        assert copy.file.read() == before and copy.sha256 == hashlib.sha256(before).hexdigest()


def test_the_copy_is_handed_on_for_reading_alone(tmp_path: Path) -> None:
    """Two processes read it one after the other: the first must not change what the second reads and the sha256 names."""
    (tmp_path / "w.safetensors").write_bytes(b"whole")
    with private.copied(tmp_path / "w.safetensors") as copy:
        state = os.fstat(copy.file.fileno())
        assert (state.st_nlink, state.st_mode & 0o777) == (0, 0o400)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(copy.file.fileno(), b"x", 0)


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        *(({"memory": value}, r"limits\.memory=.*from 1,048,576 to") for value in (0, 1e30, float("nan"), "4 GB", True)),
        *(({"seconds": value}, r"limits\.seconds=.*from 0\.01 to") for value in (0, -1, float("inf"), float("nan"), None)),
    ],
)
def test_limits_that_cannot_be_set_are_not_the_file_s_fault(tmp_path: Path, limit: dict[str, Any], words: str) -> None:
    save_file(STATE, tmp_path / "w.safetensors")
    with pytest.raises(Invalid, match=words):
        opened(tmp_path / "w.safetensors", **limit)


def test_the_largest_limits_can_be_set(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.safetensors")
    found = opened(tmp_path / "w.safetensors", memory=limits.MOST_MEMORY, seconds=limits.MOST_SECONDS)
    assert set(found.tensors) == set(STATE)


def test_sizes_that_torch_cannot_multiply_are_refused_without_torch(tmp_path: Path) -> None:
    with (tmp_path / "w.safetensors").open("wb") as file:
        header.write(file, {"w": ("F32", (0, 2**47, 2**47), 0)}, [])
    with pytest.raises(Invalid, match="has sizes whose product is 281474976710656 or more"):
        opened(tmp_path / "w.safetensors")


def test_a_folder_of_links_is_answered_with_how_to_copy_it(tmp_path: Path) -> None:
    """As Hugging Face's cache keeps a snapshot."""
    (tmp_path / "blob").write_text(json.dumps(ADAPTER))
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (snapshot / name).symlink_to(tmp_path / "blob")
    with pytest.raises(Refused, match=f"cp -rL {snapshot} COPY"):
        opened(snapshot)
    (tmp_path / "linked").symlink_to(snapshot)
    with pytest.raises(Refused, match="give what it leads to, which `readlink -f` says"):
        opened(tmp_path / "linked")


def test_a_folder_that_may_not_be_read_is_said_in_one_line() -> None:
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as place:  # pytest's own are below one that another user may not enter
        folder = Path(place, "adapter")
        folder.mkdir()
        os.chmod(place, 0o755)
        folder.chmod(0)
        try:
            if root:
                os.seteuid(65534)
            with pytest.raises(Invalid, match="permission denied"):
                opened(folder)
        finally:
            if root:
                os.seteuid(0)
            folder.chmod(0o700)


def test_a_link_put_there_after_the_look_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, secret = tmp_path / "w.safetensors", tmp_path / "secret"
    save_file(STATE, place)
    secret.write_text("secret")
    look = os.stat

    def swapping(path: Any, **options: Any) -> os.stat_result:
        found = look(path, **options)
        if path == place:
            place.unlink()
            place.symlink_to(secret)
        return found

    monkeypatch.setattr(os, "stat", swapping)
    with pytest.raises(Invalid, match="symbolic links"), private.copied(place):
        pass


@pytest.mark.slow
def test_more_memory_than_allowed_is_said(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(saved({"w": torch.zeros(64 << 18)}))
    with pytest.raises(
        Invalid, match=r"reading it takes more than 0\.0312 GiB; give a smaller file, or more memory \(limits\.memory"
    ):
        opened(tmp_path / "w.pt", memory=32 << 20)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_damaged_files_end_in_one_line(data: st.DataObject) -> None:
    """Bytes changed, cut or put in anywhere: sound, or refused with a reason; without a process of its own for each."""
    whole = data.draw(st.sampled_from(WHOLE))
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, max(0, len(damaged) - 1)))
        how = data.draw(st.sampled_from(("change", "cut", "insert")))
        if how == "change":
            damaged[place : place + 1] = data.draw(st.binary(min_size=1, max_size=1))
        elif how == "cut":
            del damaged[place:]
        else:
            damaged[place:place] = data.draw(st.binary(max_size=8))
    file, size = io.BytesIO(bytes(damaged)), len(damaged)
    try:
        kind = content.told(file, size, ".pt")
        found = header.read(file, size) if kind == "safetensors" else checkpoint.inspect(file, size, kind)
    except (Wrong, Unsafe) as refusal:
        assert "\n" not in str(refusal)
    else:
        assert isinstance(found, header.Header | int)


WHOLE = (save(STATE), saved(STATE), saved(STATE, modern=False), saved(BACKDOORBENCH))


@settings(max_examples=50, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda part: st.lists(part) | st.dictionaries(st.text(), part),
    )
)
def test_plain_data_are_json_and_printable(value: Any) -> None:
    try:
        found = Plain()(value)
    except Wrong:
        return
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert json.dumps(found, ensure_ascii=False).isprintable()


def test_text_that_a_terminal_would_obey_is_escaped() -> None:
    assert printable("a\x1b[2J\u202e\ud800\n") == "a\\x1b[2J\\u202e\\ud800\\n"
    assert printable("x" * 30, 10) == "x" * 10 + "..."
    assert header.checked_name("blocks.0/attn:q proj") == "blocks.0/attn:q proj"
    assert limits.FILE > limits.MEMORY


def test_the_reading_process_begins_light() -> None:
    """What starts for every file must not import what takes seconds: torch is for checkpoints that were found sound."""
    code = "import sys; import testbed.untrusted, testbed.untrusted.child; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "yaml", "pydantic", "hydra", "omegaconf", "testbed.api"} & set(found)
