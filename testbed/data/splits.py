"""How a data set is cut into training rows, validation, test and the defender's reserve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from testbed.api import ImageTask, Invalid, Splits, Task
from testbed.data.memory import LabelledExamples
from testbed.words import nearest, safe_name

RESERVE_SOURCES = ("reserved", "held_out", "seen")
AUGMENTATIONS = ("none", "crop", "crop_flip")


def divide(
    name: str,
    task: Task,
    train: LabelledExamples,
    test: LabelledExamples,
    *,
    validation_per_class: int,
    reserve_per_class: int,
    reserve_source: str,
    groups: Tensor | None = None,
    seed: int = 0,
) -> Splits:
    """Cut a data set, class by class, the same way every time.

    Validation comes out of the training rows; the reserve too where `reserve_source` is 'reserved', or out of the
    test rows where it is 'held_out'. No row is in two parts, but where it is 'seen': then the clean versions of training
    rows are the reserve and are trained on as well, as in BackdoorBench (Wu et al. 2022, NeurIPS). `groups` int64 (N,)
    names near-duplicates among the training rows (frames of one film): a group goes to one part whole, so that parts hold
    at least the rows asked for. A larger reserve contains the smaller one, and neither part depends on the size of the
    other unless they meet.

    Raises:
        Invalid: labels outside the classes, a class with too few rows, one class only, or no rows; a name that cannot be
            part of a path.
    """
    safe_name(name, "name")
    if reserve_source not in RESERVE_SOURCES:
        raise Invalid(
            "reserve_source", reserve_source, "the reserve has no such source", nearest(reserve_source, RESERVE_SOURCES)
        )
    check_labels(train.labels, task, "train")
    check_labels(test.labels, task, "test")
    reserve, validation = {"reserve_per_class": reserve_per_class}, {"validation_per_class": validation_per_class}
    drawn = reserve_source != "held_out"
    from_train = stratified(train.labels, {**(reserve if drawn else {}), **validation}, task.classes, groups=groups, seed=seed)
    from_test = stratified(test.labels, {} if drawn else reserve, task.classes, seed=seed)
    trained = from_train["rest"]
    if reserve_source == "seen":
        trained = torch.cat([trained, from_train["reserve_per_class"]]).sort().values
    return Splits(
        name=name,
        task=task,
        train=train.take(trained),
        validation=train.take(from_train["validation_per_class"]),
        test=test.take(from_test["rest"]),
        reserve=train.take(from_train["reserve_per_class"]) if drawn else test.take(from_test["reserve_per_class"]),
        reserve_source=reserve_source,
    )


def stratified(
    labels: Tensor,
    per_class: Mapping[str, int],
    classes: Sequence[str],
    *,
    groups: Tensor | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Rows, int64 and ascending, of each part named in `per_class`, and of the 'rest', by drawing whole groups.

    `labels` int64 (N,); `groups` int64 (N,), each row its own group where None. Every class that is drawn from keeps at
    least one row in the rest.

    Raises:
        Invalid: a class has too few rows; the parameter named is the part that went without.
    """
    targets = labels.cpu().numpy()
    group_count, group_of = numbered(len(targets), groups)
    part_of = np.full(group_count, -1)
    for part, (parameter, wanted) in enumerate(per_class.items()):
        check_count(parameter, wanted)
        for label in range(len(classes)) if wanted else ():
            members = group_of[targets == label]
            # Every other part is drawn from the far end, so that the size of one does not move another.
            order = group_order(members, seed=seed, label=label)[:: 1 if part % 2 == 0 else -1]
            rows = np.bincount(members, minlength=group_count)
            missing = wanted - rows[part_of == part].sum()
            free = order[part_of[order] == -1]
            if rows[free].sum() < missing:
                raise too_few(parameter, per_class, classes[label], rows.sum(), grouped=groups is not None)
            part_of[free[: count_reaching(rows[free], missing)]] = part
    row_parts = part_of[group_of]
    emptied = np.setdiff1d(targets, targets[row_parts == -1])
    if emptied.size:
        rows_there = (targets == emptied[0]).sum()
        last = [parameter for parameter, wanted in per_class.items() if wanted][-1]
        raise too_few(last, per_class, classes[emptied[0]], rows_there, grouped=groups is not None)
    numbers = {"rest": -1, **{parameter: part for part, parameter in enumerate(per_class)}}
    return {parameter: torch.from_numpy(np.flatnonzero(row_parts == part)) for parameter, part in numbers.items()}


def numbered(count: int, groups: Tensor | None) -> tuple[int, np.ndarray]:
    """How many groups there are, and the number of each row's group; without groups, each row is its own."""
    if groups is None:
        return count, np.arange(count)
    names, numbers = np.unique(groups.cpu().numpy(), return_inverse=True)
    return len(names), numbers


def group_order(members: np.ndarray, *, seed: int, label: int) -> np.ndarray:
    """The groups of one class in an order that depends on the seed and the class only."""
    # NumPy promises that the stream of RandomState never changes; of its newer generators it does not.
    return np.random.RandomState([seed, label]).permutation(np.unique(members))


def count_reaching(sizes: np.ndarray, wanted: int) -> int:
    """How many of the first groups hold at least the wanted rows together."""
    return 0 if wanted <= 0 else int(np.searchsorted(np.cumsum(sizes), wanted)) + 1


def too_few(parameter: str, per_class: Mapping[str, int], name: str, rows: int, *, grouped: bool) -> Invalid:
    """The refusal of parts that a class cannot fill."""
    parts = " + ".join(f"{key} {count}" for key, count in per_class.items())
    whole = " in groups that are not cut" if grouped else ""
    limit = f"class {name!r} has {rows} rows{whole}, too few for {parts} and one row left over"
    return Invalid(parameter, per_class[parameter], limit, f"lower {parameter}")


def one_line(error: Exception) -> str:
    """What an error of a library says, without its line breaks."""
    return " ".join(str(error).split())


def check_count(parameter: str, count: int) -> None:
    """Refuse a number of rows that is not a whole number of at least 0."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise Invalid(parameter, count, "a number of rows is a whole number, 0 or more")


def integer_labels(labels: Any, parameter: str, source: Any = None) -> Tensor:
    """Labels as int64 (N,), from whole numbers of any width.

    Raises:
        Invalid: they are floats, strings, booleans, negative, or more than one for each row; `parameter` is named, and the
            file `source` that they come from.
    """
    array = np.asarray(labels)
    if array.ndim != 1:
        limit = f"labels of shape {array.shape}, where one class for each row is read, (N,); several labels are not supported"
        raise Invalid(parameter, source, limit, "give the number of one class")
    if array.dtype.kind not in "iu":
        limit = f"labels of type {array.dtype}, where whole numbers 0..K-1 are read"
        raise Invalid(parameter, source, limit, "convert them to integers")
    if array.size and array.min() < 0:
        limit = f"a label is {array.min()}, where whole numbers 0..K-1 are read"
        raise Invalid(parameter, source, limit, "take the unlabelled rows out")
    return torch.from_numpy(array.astype(np.int64))


def check_labels(labels: Tensor, task: Task, part: str) -> None:
    """Refuse labels int64 (N,) of `part` ('train' or 'test') that do not fit the classes of the task.

    Raises:
        Invalid: no rows; fewer than two classes; a label without a name; a class that `train` never shows.
    """
    count = len(task.classes)
    if len(labels) == 0:
        raise Invalid(part, "0 rows", "a data set needs rows to train on and rows to test on", "check where it is read from")
    if count < 2:
        raise Invalid(part, f"classes {', '.join(task.classes)}", "a classifier needs at least two classes")
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= count:
        limit = f"labels are 0..{count - 1}, one for each of the {count} classes"
        raise Invalid(part, f"labels {lowest}..{highest}", limit, "check the labels and the names of the classes")
    if part == "train":
        absent = (torch.bincount(labels.cpu(), minlength=count) == 0).nonzero().flatten().tolist()
        if absent:
            names = ", ".join(task.classes[label] for label in absent[:3])
            raise Invalid(part, f"{len(absent)} empty classes", f"no row shows {names}", "number the classes without gaps")


def image_task(
    classes: Sequence[str],
    shape: Sequence[int],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    augmentation: str,
) -> ImageTask:
    """A checked task over images of `shape` (C, H, W); `mean` and `std` in 0..1 hold one value or one for each channel.

    Raises:
        Invalid: a value is outside its range, or two classes have one name.
    """
    for parameter, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, shape[0]) or not all(0 <= value <= 1 for value in values):
            limit = f"{shape[0]} channels take 1 or {shape[0]} values in 0..1"
            raise Invalid(parameter, list(values), limit, "pixels are divided by 255 first")
    if min(std) <= 0:
        raise Invalid("std", list(std), "pixels are divided by it", "give values above 0")
    if augmentation not in AUGMENTATIONS:
        raise Invalid("augmentation", augmentation, "there is no such augmentation", nearest(str(augmentation), AUGMENTATIONS))
    if len(set(classes)) != len(classes):
        raise Invalid("classes", list(classes), "two classes have one name", "give each its own")
    channels, height, width = shape
    return ImageTask(
        "images", tuple(classes), (channels, height, width), tuple(map(float, mean)), tuple(map(float, std)), augmentation
    )
