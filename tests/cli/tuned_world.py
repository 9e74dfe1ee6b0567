"""What is tuned in these tests: a suite, a defence that fails in many ways, and data whose test rows are sealed."""

from __future__ import annotations

from pathlib import Path

SUITE = """
verb: train
clean_budget: none
seeds: 1
trials: 4
settings: [trainer.max_epochs=1, trainer.batch_size=256, trainer.threads=1, model.network.width=2]
worlds:
  digits: [data=sealed]
attacks:
  badnets: [attack=badnets]
methods:
  none: [defence=none]
  faded: [defence=faded, defence.strength=0.3]
dev:
  blended: [attack=blended]
"""
MINE = '''"""Data whose test rows must not be looked at, and a defence that fades a model, and fails in many ways."""

import copy
import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from testbed.api import Defence, Diverged, Invalid, Unsupported
from testbed.data.digits import digits

class Sealed:
    def __len__(self):
        raise AssertionError("somebody counted the test rows")

    def __getitem__(self, rows):
        raise AssertionError("somebody read a test row")

def sealed(validation_per_class: int = 5):
    data = digits(validation_per_class=validation_per_class)
    if Path("spoilt").exists():
        data = dataclasses.replace(data, reserve=data.validation)
    return dataclasses.replace(data, test=Sealed(), exams={"extra": Sealed()})

@dataclass(frozen=True)
class Faded(Defence):
    strength: float = 0.0
    fault: str = "none"

    def check(self, resources):
        if self.strength > 1:
            raise Invalid("strength", self.strength, "must be at most 1")
        if self.fault == "unsupported":
            raise Unsupported("it does not apply here")

    def after_training(self, victim, resources):
        if self.fault == "diverged":
            raise Diverged("the loss is NaN")
        if self.fault == "raises":
            raise RuntimeError("broken")
        if self.fault == "spoils":
            Path("spoilt").touch()
        if self.fault == "edits":
            Path("conf/defence/faded.yaml").write_text("_target_: mine.Faded\\nstrength: 0.9\\nfault: edited\\n")
        if Path("block").exists():
            Path("reached").touch()
            time.sleep(100)
        faded = copy.deepcopy(victim)
        with torch.no_grad():
            for parameter in faded.parameters():
                parameter.mul_(1 - self.strength)
        return faded
'''
SPACE = "defence.strength=interval(0,1)"


def folder(here: Path) -> Path:
    """A folder of configuration with all of it, beside the module that it names."""
    (here / "mine.py").write_text(MINE)
    for name, text in {
        "suite/tiny": SUITE,
        "suite/no_dev": SUITE.partition("dev:")[0],
        "defence/faded": "_target_: mine.Faded\nstrength: 0.0\nfault: none\n",
        "data/sealed": "_target_: mine.sealed\nvalidation_per_class: 5\n",
        "trainer/sealed": "defaults: [digits]\n",
        "tune/faded": f"search:\n  {SPACE.replace('=', ': ')}\n",
        "tune/wrong": "search: {defence.strength: 0.5}\n",
    }.items():
        path = here / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return here / "conf"
