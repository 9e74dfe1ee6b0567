"""`pytest -m anchor`: runs of images_cifar10 and images_cifar10_as_published below TESTBED_OUTPUTS against published numbers.

A skipped test is the report that nothing was compared, and why. Without the official 50,000 images nothing ever is.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from .published import SUITES, Anchor, anchors, beside, unofficial


@pytest.mark.anchor
@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("anchor", anchors(), ids=str)
def test_a_published_number_is_met(anchor: Anchor, suite: str) -> None:
    outputs, data = os.environ.get("TESTBED_OUTPUTS", ""), os.environ.get("TESTBED_DATA")
    if not outputs:
        pytest.skip("not run: TESTBED_OUTPUTS does not say where the outputs of images_cifar10 are")
    check = partial(unofficial, root=None if data is None else Path(data))
    found = beside(anchor, Path(outputs), check, suite)
    if found.ours is None:
        pytest.skip(str(found))
    assert found.agrees, str(found)
