"""Hostile files with harmless payloads (each makes a marker file, or knocks at a port of this machine), and the reader's trial.

python scripts/hostile_files.py DIR              # write them to DIR/corpus, with DIR/manifest.json: what each would do
python scripts/hostile_files.py DIR --try        # and give each to testbed.untrusted, under watch
python scripts/hostile_files.py DIR --control    # and to careless readers, to show that the payloads work and are seen
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hostile import archives, pickles, places, tensors
from hostile.trial import Ground, Seen, control, made, tried, worst_memory

CASES = [*pickles.CASES, *archives.CASES, *tensors.CASES, *places.CASES]


def summary(seen: Sequence[Seen]) -> str:
    """One line over all files."""
    slowest = max(seen, key=lambda each: each.seconds)
    written = sum(bool(each.written) for each in seen)
    run, knocked = sum(each.markers for each in seen), sum(each.connections for each in seen)
    other = sum(each.became != each.expected for each in seen)
    return (
        f"{len(seen)} files: code run {run}, written outside {written}, connections {knocked}, not as expected {other}; "
        f"worst {slowest.seconds:.1f} s of processor ({slowest.name!r}), {worst_memory():.0f} MiB"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--try", dest="attempt", action="store_true", help="give each file to testbed.untrusted, under watch")
    parser.add_argument("--control", action="store_true", help="load those with a payload unsafely: the watch must see it")
    parser.add_argument("--only", default="", help="names of files, with commas: these and no others")
    options = parser.parse_args()
    wanted = [name for name in options.only.split(",") if name]
    cases = [case for case in CASES if not wanted or case.name in wanted]
    if unknown := set(wanted) - {case.name for case in CASES}:
        print(f"error: --only: there is no {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    folder = options.folder.resolve()
    if folder.exists() and any(folder.iterdir()):
        print(f"error: {folder} is not empty; give a new folder", file=sys.stderr)
        return 2
    ground = Ground(folder)
    made(cases, ground)
    print(f"{len(cases)} files in {ground.corpus}")
    good = True
    if options.attempt:
        seen = tried(cases, ground)
        for each in seen:
            mark = "  " if each.is_harmless and each.became == each.expected else "! "
            print(f"{mark}{each.name!r}: {each.became} in {each.seconds:.2f} s: {each.said}", *each.written)
        print(summary(seen))
        good = all(each.is_harmless and each.became == each.expected for each in seen)
    if options.control:
        armed, worked = control(cases, ground)
        print(
            f"control: {len(worked)} of {len(armed)} payloads were seen to work in careless hands",
            *sorted({*armed} - {*worked}),
        )
        good = good and len(worked) == len(armed)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
