"""What becomes of workers when the process that started them is interrupted."""

from __future__ import annotations

import multiprocessing
import time

import pytest

from testbed.launcher import processes


def test_a_worker_that_nobody_waits_for_yet_is_ended_too() -> None:
    worker = multiprocessing.get_context("forkserver").Process(target=time.sleep, args=(600,))

    def interrupted() -> None:
        with processes.ending():  # interrupted between the start of a process and the note that it was started
            worker.start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    worker.join(10)
    assert worker.exitcode == -15
