"""Marks of files of tensors, by what stands in their header alone, and headers that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from testbed.cli import main
from testbed.marks import CANARY, Mark, mark, mark_of, tensors_digest, tensors_table

DEEP = "[" * 5_000
ONE = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}


def tensors(path: Path, header: Any, content: bytes = b"x") -> Path:
    said = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(len(said).to_bytes(8, "little") + said + content)
    return path


@pytest.mark.parametrize("name", ["poison", "attack_state", "model", "original"])
@pytest.mark.parametrize("backdoored", [True, False])
def test_a_model_is_one_whatever_its_file_is_called(name: str, backdoored: bool, tmp_path: Path) -> None:
    save_file({"weight": torch.ones(1)}, tmp_path / f"{name}.safetensors", mark(backdoored=backdoored, card={}))
    found = mark_of(tmp_path / f"{name}.safetensors")
    assert found == Mark("model", str(backdoored).lower())


def test_a_poison_is_one_whatever_its_file_is_called(tmp_path: Path) -> None:
    said = {"backdoored": "true", "do_not_deploy": "true", "canary": CANARY}
    save_file({"indices": torch.ones(1), "inputs": torch.ones(1)}, tmp_path / "model.safetensors", said)
    assert mark_of(tmp_path / "model.safetensors") == Mark("poison")


@pytest.mark.parametrize(
    "header",
    [
        DEEP,
        '{"a": ' + "[" * 600 + "]" * 600 + "}",
        {"a": {**ONE, "data_offsets": 5}},
        {"a": {**ONE, "data_offsets": [0, "x"]}},
        {"a": {**ONE, "data_offsets": [0]}},
        {"a": {**ONE, "data_offsets": [0, True]}},
        {"a": {**ONE, "data_offsets": None}},
        {"a": {**ONE, "data_offsets": [0, 2]}},
        {"a": {**ONE, "shape": [[1]]}},
        {"a": {**ONE, "shape": ["x"]}},
    ],
)
def test_a_header_that_is_none_has_neither_mark_nor_digest(header: Any, tmp_path: Path) -> None:
    path = tensors(tmp_path / "x.safetensors", header)
    assert mark_of(path) is None and tensors_digest(path) is None


@pytest.mark.parametrize("said", [{"backdoored": "true", "canary": [CANARY]}, [CANARY], CANARY, None])
def test_metadata_that_are_no_texts_are_no_mark(said: Any, tmp_path: Path) -> None:
    assert mark_of(tensors(tmp_path / "x.safetensors", {"__metadata__": said, "a": ONE})) is None


def test_a_header_that_is_one_has_a_table_and_a_digest(tmp_path: Path) -> None:
    path = tensors(tmp_path / "x.safetensors", {"a": ONE})
    assert tensors_table(path) == {"a": ("U8", (1,))} and tensors_digest(path) is not None


@pytest.mark.parametrize("said", ["canary", "backdoored"])
def test_json_that_is_nested_deeply_is_looked_at_like_any_other(said: str, tmp_path: Path) -> None:
    nested = "[" * 700 + "]" * 700
    facts = {"canary": f'"{CANARY}"', "backdoored": "true", "model": "{}", said: nested, "more": f'"{CANARY}"'}
    path = tmp_path / "card.json"
    path.write_text("{" + ", ".join(f'"{name}": {value}' for name, value in facts.items()) + "}")
    found = mark_of(path)
    assert found is not None and found.kind in ("card of a model", "file with a canary")


def test_whatis_looks_at_the_rest_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = tmp_path / "outputs" / "victim" / "a"
    known.mkdir(parents=True)
    tensors(known / "model.safetensors", {"a": ONE})
    tensors(tmp_path / "a.safetensors", DEEP)
    tensors(tmp_path / "b.safetensors", {"a": {**ONE, "data_offsets": 5}})
    (tmp_path / "c.txt").write_text(CANARY)
    assert main(["whatis", str(tmp_path), f"paths.outputs={tmp_path / 'outputs'}"]) == 0
    said = capsys.readouterr()
    assert "c.txt: file with a canary" in said.out and said.err == "" and "4 files" in said.out
