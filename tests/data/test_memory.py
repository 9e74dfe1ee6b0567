"""Examples in memory: the rows asked for, whatever the way they are read."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.api import Examples, Invalid
from testbed.data.memory import MemoryExamples, Subset

COUNT = 12
INPUTS = torch.arange(COUNT * 3 * 2 * 2, dtype=torch.uint8).view(COUNT, 3, 2, 2)
LABELS = torch.arange(COUNT) % 3
INDICES = st.lists(st.integers(0, COUNT - 1), max_size=8).map(lambda rows: torch.tensor(rows, dtype=torch.int64))


@settings(deadline=None)
@given(INDICES, INDICES)
def test_every_reader_gives_the_rows_asked_for(kept: torch.Tensor, wanted: torch.Tensor) -> None:
    examples = MemoryExamples(INPUTS, LABELS)
    assert isinstance(examples, Examples)
    batch = examples[kept]
    assert torch.equal(batch.inputs, INPUTS[kept]) and torch.equal(batch.labels, LABELS[kept]) and torch.equal(batch.rows, kept)
    wanted = wanted[wanted < len(kept)]
    for part in (Subset(examples, kept), examples.take(kept)):
        read = part[wanted]
        assert torch.equal(read.inputs, INPUTS[kept[wanted]]) and torch.equal(read.rows, wanted)
        assert torch.equal(part.labels, LABELS[kept])
        assert torch.equal(part.take(wanted)[torch.arange(len(wanted))].inputs, read.inputs)


def test_consecutive_rows_are_a_view_and_others_a_copy() -> None:
    examples = MemoryExamples(INPUTS, LABELS)
    assert examples[torch.arange(4, 9)].inputs.data_ptr() == INPUTS[4].data_ptr()
    shuffled = torch.tensor([4, 6, 5, 7])
    assert torch.equal(examples[shuffled].inputs, torch.stack([INPUTS[index] for index in (4, 6, 5, 7)]))


@pytest.mark.parametrize("rows", [[-1], [-2, -1, 0], [COUNT], list(range(8, COUNT + 1))])
def test_rows_outside_are_refused(rows: list[int]) -> None:
    examples = MemoryExamples(INPUTS, LABELS)
    for part in (examples, Subset(examples, torch.arange(COUNT))):
        with pytest.raises(IndexError, match="outside the 12 rows"):
            part[torch.tensor(rows)]
    with pytest.raises(TypeError):
        examples[torch.ones(COUNT, dtype=torch.bool)]


def test_digest_follows_content_alone() -> None:
    examples = MemoryExamples(INPUTS, LABELS)
    assert examples.digest == MemoryExamples(INPUTS.clone(), LABELS.clone()).digest == examples.to("cpu").digest
    strided = INPUTS.clone().contiguous(memory_format=torch.channels_last)
    assert examples.digest == MemoryExamples(strided, LABELS).digest
    others = [
        MemoryExamples(INPUTS.view(COUNT, 3, 4, 1), LABELS),
        MemoryExamples(INPUTS.float(), LABELS),
        MemoryExamples(INPUTS, LABELS.flip(0)),
        Subset(examples, torch.arange(COUNT)),
        Subset(examples, torch.arange(COUNT).flip(0)),
    ]
    assert len({examples.digest, *(other.digest for other in others)}) == 6


def test_wrong_tensors_are_refused() -> None:
    for inputs, labels, parameter in (
        (INPUTS.double(), LABELS, "inputs"),
        (INPUTS[0], LABELS, "inputs"),
        (INPUTS, LABELS.int(), "labels"),
        (INPUTS, LABELS[1:], "labels"),
    ):
        with pytest.raises(Invalid) as caught:
            MemoryExamples(inputs, labels)
        assert caught.value.parameter == parameter
