"""Which images of a folder can be read at all: every file is decoded once, before anything is trained on some of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from testbed.api import Invalid
from testbed.data.cache import read_memo, write_memo
from testbed.data.folder import FolderExamples, read_image, rows_digest


def sound(examples: FolderExamples, cache: Path, *, on_bad: str) -> tuple[FolderExamples, int]:
    """The examples that can be decoded, and how many cannot, which only `on_bad` 'skip' leaves out.

    What was found is remembered in `cache` under the digest of the files: they are decoded again once one of them changes.

    Raises:
        Invalid: `on_bad` is 'fail', and an image cannot be used; the first is named.
    """
    memo = cache / f"sound-{rows_digest(examples.shape, examples.contents(), examples.labels)[:32]}.json"
    found = read_memo(memo).get("bad")
    if found is None:
        found = _bad(examples)
        write_memo(memo, {"bad": found})
    for index, limit, advice in found if on_bad == "fail" else ():
        raise Invalid("root", examples.root / examples.paths[index], limit, f"{advice}, or say data.on_bad=skip")
    bad = {index for index, *_ in found}
    kept = [index for index in range(len(examples)) if index not in bad]
    return examples.take(torch.tensor(kept, dtype=torch.int64)), len(bad)


def _bad(examples: FolderExamples) -> list[list]:
    """[index, limit, advice] of every image that cannot be used, as JSON has it."""

    def look(index: int) -> list | None:
        try:
            read_image(examples.root / examples.paths[index], channels=examples.shape[0], index=index)
        except Invalid as error:
            return [index, error.limit, error.advice]
        return None

    # Pillow decodes outside the lock of the interpreter, so that threads do.
    with ThreadPoolExecutor(max(1, examples.workers)) as threads:
        return [entry for entry in threads.map(look, range(len(examples))) if entry is not None]
