"""One shared pass over the data: whoever asks for the same layer of the same victim on the same rows gets the same tensors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from testbed.api import Batch, Examples, Invalid, Victim
from testbed.identity import examples_digest, weights_digest
from testbed.words import nearest

KEPT_READINGS = 4
"""How many readings stay in memory: one of 60,000 rows of 512 features is 120 MB."""

_readings: OrderedDict[tuple[str, str, str], Reading] = OrderedDict()


class Reading(NamedTuple):
    """What one pass saw, on the CPU: `features` float32 (n, d).

    `labels` int64 (n,) are kinds of answers: the classes of a classifier, refusal or not of a chat model.
    """

    features: Tensor
    labels: Tensor


def read(victim: Victim, examples: Examples, layer: str, *, batch_size: int = 256) -> Reading:
    """Activations of a layer and kinds of labels, in evaluation mode; remembered by weights, rows and layer.

    Raises:
        Invalid: the model has no such layer.
    """
    key = (f"{type(victim)}{weights_digest(victim)}", examples_digest(examples), layer)
    if key not in _readings:
        _readings[key] = _read(victim, examples, layer, batch_size)
        while len(_readings) > KEPT_READINGS:
            _readings.popitem(last=False)
    _readings.move_to_end(key)
    return _readings[key]


@torch.no_grad()
def _read(victim: Victim, examples: Examples, layer: str, batch_size: int) -> Reading:
    features, labels = [], []
    with evaluating(victim):
        for batch in progress(batches(examples, batch_size), "reading features", -(-len(examples) // batch_size)):
            activation = victim.observe(on_device(batch.inputs, victim.device), layer)[0]
            features.append(activation.flatten(1).float().cpu())
            labels.append(victim.kinds(batch.labels))
    return Reading(torch.cat(features), torch.cat(labels))


@torch.no_grad()
def accuracy(victim: Victim, examples: Examples, *, batch_size: int = 256) -> float:
    """Share of rows answered correctly, unaugmented; no random number is drawn and every module keeps its mode."""
    hits = 0
    with evaluating(victim):
        for batch in batches(examples, batch_size):
            given = victim.answers(on_device(batch.inputs, victim.device))
            hits += int(victim.correct(given.cpu() if isinstance(given, Tensor) else given, batch.labels).sum())
    return hits / len(examples)


def batches(examples: Examples, batch_size: int) -> Iterator[Batch]:
    """The rows in order; from folders, read ahead by the data set's own workers."""
    order = torch.arange(len(examples))
    yield from read_ahead(examples, order.split(batch_size))


def all_labels(examples: Examples) -> Any:
    """Every label in order, without reading inputs where the data set keeps its labels at hand."""
    kept = getattr(examples, "labels", None)
    return kept if kept is not None else _join([batch.labels for batch in batches(examples, 1024)])


def read_ahead(examples: Examples, index_batches: Iterable[Tensor]) -> Iterator[Batch]:
    """A batch for each tensor of indices: sliced from memory, or decoded by the data set's worker processes."""
    workers = getattr(examples, "workers", 0)
    if not workers:
        yield from (examples[indices] for indices in index_batches)
        return
    # forkserver: a fork after torch has started its threads can hang (facts of the platform, not of this project)
    yield from torch.utils.data.DataLoader(
        _ByBatch(examples),
        sampler=list(index_batches),
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="forkserver",
    )


def select(examples: Examples, rows: Tensor) -> Examples:
    """The chosen rows, int64 (n,), as a data set of their own: copied where they lie in memory, otherwise read through."""
    take = getattr(examples, "take", None)
    return take(rows) if take is not None else Selection(examples, rows)


class Selection:
    """Chosen rows of a data set that cannot copy them; its own rows count from 0."""

    def __init__(self, examples: Examples, rows: Tensor) -> None:
        self.examples, self.rows = examples, rows
        self.workers = getattr(examples, "workers", 0)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices: Tensor) -> Batch:
        batch = self.examples[self.rows[indices]]
        return Batch(batch.inputs, batch.labels, indices)


class _ByBatch(torch.utils.data.Dataset):
    """Hands a whole tensor of indices to the data set, so that a worker decodes a batch."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __getitem__(self, indices: Tensor) -> Batch:
        return self.examples[indices]


def require_layer(victim: Victim, layer: str) -> None:
    """Raises `Invalid` where the model has no such layer."""
    if layer not in victim.layers:
        raise Invalid("layer", layer, "the model has no such layer", nearest(layer, victim.layers))


class evaluating:
    """In evaluation mode inside; as it was afterwards."""

    def __init__(self, victim: Victim) -> None:
        self.victim = victim

    def __enter__(self) -> Victim:
        self.modes = [(module, module.training) for module in self.victim.modules()]
        return self.victim.eval()

    def __exit__(self, *error: object) -> None:
        for module, mode in self.modes:
            module.training = mode


def on_device(inputs: Any, device: torch.device) -> Any:
    """Tensors move to the device; texts stay what they are."""
    return inputs.to(device, non_blocking=True) if isinstance(inputs, Tensor) else inputs


def progress(iterable: Iterable[Any], description: str, total: int | None = None) -> Iterable[Any]:
    """A bar on a terminal, once the work has taken two seconds."""
    return tqdm(iterable, desc=description, total=total, delay=2, leave=False, disable=None)


def _join(parts: list[Any]) -> Any:
    return torch.cat(parts) if isinstance(parts[0], Tensor) else [label for part in parts for label in part]
