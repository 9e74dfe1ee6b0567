"""The forms that rows can be exported in, and which data each of them holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from testbed.api import Invalid
from testbed.exported.pictures import write_pictures
from testbed.exported.texts import write_texts

WRITERS: Mapping[str, tuple[tuple[str, ...], Callable[..., None]]] = {
    "image_folder": (("images",), write_pictures),
    "jsonl": (("text", "chat"), write_texts),
}
"""By format: the kinds of data that it holds, and what writes them."""

DELIVERED = "the order in which the rows were delivered to the training"
ORDER = {
    "images": f"`position` in `metadata.csv` is {DELIVERED}.",
    "text": f"Lines stand in {DELIVERED}.",
    "chat": f"Lines stand in {DELIVERED}.",
}
"""By kind of data: what is said of the order of the rows."""


def writer_of(form: str | None, kind: str) -> Callable[..., None]:
    """What writes data of this kind in a form, or in the one that suits where none is named.

    Raises:
        Invalid: the form does not hold such data.
    """
    suited = next(name for name, (kinds, _) in WRITERS.items() if kind in kinds)
    kinds, writer = WRITERS[form or suited]
    if kind not in kinds:
        raise Invalid("format", form, f"holds {' or '.join(kinds)}, and these data are {kind}", f"say format={suited}")
    return writer
