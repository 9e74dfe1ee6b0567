"""The page of methods, docs/methods.md.

    python scripts/methods measure [--outputs DIR] [NAME ...]   # say the command in each method's header; keep what came of it
    python scripts/methods write                                # docs/methods.md from that, from conf/ and from the code

`measure` makes what is not made yet below DIR (outputs/methods); of text and chat models only what is named. What came of the
runs is kept in docs/methods.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from methods.header import Header, headers  # noqa: E402
from methods.measured import measured  # noqa: E402
from methods.page import page  # noqa: E402

KEPT, PAGE = ROOT / "docs" / "methods.json", ROOT / "docs" / "methods.md"
ALWAYS = ("train", "detect")


def kept() -> dict[str, Any]:
    """What was measured and seen so far."""
    return json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.is_file() else {"measured": {}, "seen": {}}


def measure(names: list[str], outputs: Path) -> None:
    """Run the commands of these methods, or of all that are about images, and keep each result at once."""
    told = kept()
    for header in headers(ROOT / "conf"):
        name = f"{header.group}/{header.name}"
        if names and not {name, header.name} & set(names):
            continue
        if not header.command or (not names and not _of_images(header)):
            continue
        told["measured"][name] = measured(header, outputs)
        _keep(told)
        print(f"{name}: {len(told['measured'][name])} cells", flush=True)


def write() -> None:
    """See what methods need, and write the page."""
    from methods.seen import seen

    told = kept()
    known = headers(ROOT / "conf")
    told["seen"] = seen(known)
    told["measured"] = {name: cells for name, cells in told["measured"].items() if (ROOT / "conf" / f"{name}.yaml").is_file()}
    _keep(told)
    PAGE.write_text(page(known, told["measured"], told["seen"]), encoding="utf-8")
    print(PAGE)


def _of_images(header: Header) -> bool:
    data = next((word.removeprefix("data=") for word in header.command if word.startswith("data=")), "digits")
    return header.command[0] in ALWAYS and not data.startswith(("toy_", "messages", "text", "sst", "ag_"))


def _keep(told: dict[str, Any]) -> None:
    KEPT.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "write"])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--outputs", type=Path, default=ROOT / "outputs" / "methods")
    given = parser.parse_intermixed_args()
    measure(given.names, given.outputs.resolve()) if given.what == "measure" else write()
