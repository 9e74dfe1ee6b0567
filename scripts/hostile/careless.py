"""The control: readers without a care, in whose hands the payloads do what they are meant to.

python -m hostile.careless, with a JSON list of [loader, path] on the standard input; run by `hostile_files.py --control` only.
"""

from __future__ import annotations

import json
import pickle
import sys
import zipfile
from pathlib import Path


def load(loader: str, path: Path) -> None:
    """Load a file as its loader does where nobody thinks of strangers."""
    if loader == "pickle":
        pickle.loads(path.read_bytes())
    elif loader == "adapter":
        pickle.loads((path / "adapter_model.bin").read_bytes())
    elif loader == "torch_member":
        with zipfile.ZipFile(path) as archive:
            pickle.loads(archive.read(archive.infolist()[-1]))
    elif loader == "numpy":
        import numpy as np

        found = np.load(path, allow_pickle=True)
        if isinstance(found, np.lib.npyio.NpzFile):
            found["a"]
    elif loader == "torch":
        import torch

        torch.load(path, map_location="cpu", weights_only=False)


def main() -> None:
    for loader, path in json.load(sys.stdin):
        try:
            load(loader, Path(path))
        except Exception as error:
            print(f"{path}: {type(error).__name__}: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
