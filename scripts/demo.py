"""The main job on real handwritten digits and a toy chat model, in one process: attacks, detectors, defences, tables.

    python scripts/demo.py [--outputs outputs/demo]

Every step is a command of the program and is printed as it would be typed. A second call finds everything done.
"""

from __future__ import annotations

import argparse
import sys
import time

from testbed.cli import main

STEPS = (
    ("A clean model, and models with backdoors from 5 % poisoned rows", "train -m attack=none,badnets,blended"),
    (
        "What a detector of rows finds, and one of queries",
        "detect -m attack=badnets,blended detector=activation_clustering,strip",
    ),
    (
        "Which class is the target? (20 of the usual 80 passes)",
        "detect attack=badnets detector=neural_cleanse detector.epochs=20",
    ),
    ("Repair with 140 clean images", "train -m attack=badnets defence=fine_tuning,fine_pruning"),
    ("Filter and train again; the oracle knows the answers", "train -m attack=badnets defence=filter,oracle_filter"),
    (
        "How fast does an aligned chat model lose its alignment, and what does mixing in safety rows change? (a toy)",
        "degrade attack=few_shot attack.shots=50 defence=safety_mix",
    ),
)


def demo(outputs: str) -> int:
    """Run the steps, then the report: 0 if all went well."""
    start = time.monotonic()
    for title, words in STEPS:
        print(f"\n== {title}\n$ testbed {words}", flush=True)
        code = main([*words.split(), f"paths.outputs={outputs}"])
        if code:
            return code
    print("\n== All of it\n$ testbed report", flush=True)
    code = main(["report", f"paths.outputs={outputs}"])
    print(f"\nrun folders: {outputs}/train, {outputs}/detect and {outputs}/degrade, pictures in their figures/")
    print(f"{time.monotonic() - start:.0f} s")
    return code


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--outputs", default="outputs/demo", help="where the run folders go")
    sys.exit(demo(parser.parse_args().outputs))
