"""The same tensors with the same metadata are the same bytes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from torch import nn

from testbed.tensor_file import save_network, save_tensors

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)


@given(metadata=st.dictionaries(TEXTS, TEXTS, max_size=8), seed=st.integers(0, 3))
def test_order_tells_nothing(metadata: dict[str, str], seed: int) -> None:
    tensors = {"weight": torch.rand(3, 2, generator=torch.Generator().manual_seed(seed)), "steps": torch.arange(4)}
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("one", "other")]
        save_tensors(paths[0], tensors, metadata)
        save_tensors(paths[1], dict(reversed(tensors.items())), dict(reversed(metadata.items())))
        assert paths[0].read_bytes() == paths[1].read_bytes()
        with safe_open(paths[0], "pt") as file:
            assert (file.metadata() or {}) == metadata
            assert all(torch.equal(file.get_tensor(name), value) for name, value in tensors.items())


def test_a_network_with_shared_weights(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    network[1].weight = network[0].weight
    for name in ("one", "other"):
        save_network(tmp_path / name, network, {letter: letter for letter in "abcdefgh"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    with safe_open(tmp_path / "one", "pt") as file:
        assert set(file.keys()) == {"0.weight", "0.bias", "1.bias"}
