"""Deep partition aggregation: what a radius promises, by brute force."""

from __future__ import annotations

from itertools import product

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from testbed.api import Batch, DefenderResources, Examples, ImageTask, Victim
from testbed.data.memory import MemoryExamples
from testbed.defence.deep_partition_aggregation import DeepPartitionAggregation, certified_radius, partition
from testbed.features import all_labels

TASK = ImageTask("images", ("a", "b", "c"), shape=(1, 2, 2))
ALL = torch.arange(3)


@given(st.lists(st.integers(0, 6), min_size=2, max_size=4))
def test_a_radius_is_half_the_way_to_another_answer(votes: list[int]) -> None:
    """Each row added or removed changes one model: how many models must change their votes, at the least?"""
    total, answer = sum(votes), min(range(len(votes)), key=lambda c: (-votes[c], c))
    moved = [
        sum(abs(new - old) for new, old in zip(other, votes, strict=True)) // 2
        for other in product(range(total + 1), repeat=len(votes))
        if sum(other) == total and min(range(len(votes)), key=lambda c: (-other[c], c)) != answer
    ]
    assert certified_radius(torch.tensor([votes])).tolist() == [min(moved, default=1) - 1 if moved else 0]


class Majority(Victim):
    """Answers every image by the commonest label of the rows that it was 'trained' on."""

    layers = ("penultimate",)  # type: ignore[assignment]

    def __init__(self, label: int = 0) -> None:
        super().__init__()
        self.label = nn.Parameter(torch.tensor(float(label)))

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.one_hot(torch.full((len(inputs),), int(self.label)), 3).float()

    def loss(self, batch: Batch) -> Tensor:
        return self.label

    def features(self, inputs: Tensor, layer: str) -> Tensor:
        return inputs.float().flatten(1)


def trained(_: Victim, examples: Examples, **__: object) -> Victim:
    return Majority(int(all_labels(examples).bincount(minlength=3).argmax()))


def vote(rows: MemoryExamples) -> Victim:
    resources = DefenderResources(TASK, rows, rows, Majority, trained, 0)
    return DeepPartitionAggregation(partitions=5).during_training(Majority(), resources)


@given(data=st.data(), seed=st.integers(0, 1000))
def test_so_many_rows_added_or_removed_change_no_answer(data: st.DataObject, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (40, 1, 2, 2), generator=draw, dtype=torch.uint8)
    labels = (torch.rand(40, generator=draw) > 0.7).long() * data.draw(st.integers(1, 2))
    rows, query = MemoryExamples(pixels[:30], labels[:30]), pixels[:1]
    voted = vote(rows)
    radius = int(voted.radius(query))  # type: ignore[arg-type]
    edits = data.draw(st.sets(st.integers(0, 39), min_size=radius, max_size=radius))
    kept = torch.tensor([row for row in range(40) if (row < 30) != (row in edits)])  # below 30 removed, the others added
    assert voted.answers(query).tolist() == vote(MemoryExamples(pixels[kept], labels[kept])).answers(query).tolist()


def test_a_part_knows_a_row_by_its_pixels_alone_and_orders_rows_by_them() -> None:
    draw = torch.Generator().manual_seed(0)
    pixels, labels = torch.randint(0, 256, (50, 1, 2, 2), generator=draw, dtype=torch.uint8), torch.arange(50) % 3
    order = torch.randperm(50, generator=draw)
    parts = partition(MemoryExamples(pixels, labels), 4)
    shuffled = partition(MemoryExamples(pixels[order], (labels[order] + 1) % 3), 4)
    assert sorted(torch.cat(parts).tolist()) == list(range(50)) and len(parts) == 4
    assert [part.tolist() for part in parts] == [order[part].tolist() for part in shuffled]
