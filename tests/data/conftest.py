"""What the tests of data sets share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets; a test that asks for it fails where there is none."""
    named = os.environ.get("TESTBED_DATA")
    if not named:
        pytest.fail("set TESTBED_DATA to the folder that holds FashionMNIST/, gtsrb/, cifar10_subset/ and cifar10_jpeg/")
    root = Path(named)
    if not root.is_dir():
        pytest.fail(f"TESTBED_DATA={named}: there is no such folder")
    return root
