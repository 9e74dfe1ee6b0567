"""Views into a small attacked model by the real command line, and where its page shows them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from testbed.page.views import LAYOUT

SMALL = "train_size=250 test_size=100 validation_per_class=2 reserve_per_class=5"


def test_figures_are_left_in_the_run_and_shown_on_the_page(here: Path, say: Callable[..., Any]) -> None:
    data = [f"data.{setting}" for setting in SMALL.split()]
    said = say("picture", "attack=badnets", "data=icons", *data, "model.network.width=4", "trainer.max_epochs=1", "logger=none")
    assert said.code == 0, said.err
    (run,) = here.glob("outputs/picture/badnets-none-icons-s0-*")
    assert json.loads((run / "result.json").read_text())["measures"]["left_out"] == []
    assert say("report", "format=html").code == 0
    page = (here / "outputs" / "report.html").read_text(encoding="utf-8")
    section = page.split("Views into models")[1].split("</section>")[0]
    shown = re.findall(rf'<img data-picture="(\w+)" alt="([\w ]+) of {run.name}">', section)
    left = {name: (run / "figures" / f"{name}.png").read_bytes() for name in LAYOUT}
    assert sorted((name.replace(" ", "_"), digest) for digest, name in shown) == sorted(
        (name, hashlib.sha256(content).hexdigest()[:16]) for name, content in left.items()
    )
    assert all(f'"{digest}":"data:image/png;base64,' in page for digest, _ in shown)
