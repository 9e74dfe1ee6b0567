"""Reading back what W&B keeps offline."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import wandb
from wandb.proto import wandb_internal_pb2


def records(outputs: Path, identifier: str = "*") -> Iterator[Any]:
    """The records of a run kept offline: 7 bytes of header, 32 KiB blocks, chunks of (checksum, length, type) and payload."""
    wandb.teardown()  # the client writes the last of a run when it ends
    (path,) = outputs.glob(f"wandb/offline-run-*/run-{identifier}.wandb")
    data, place, payload = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        payload += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(payload)
            payload = b""


def values(items: Any) -> dict[str, Any]:
    """The values of a configuration, a summary or a row, by name."""
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def kept_run(outputs: Path, identifier: str = "*") -> Any:
    """What a kept run says about itself."""
    return next(record.run for record in records(outputs, identifier) if record.HasField("run"))


def kept_summary(outputs: Path, identifier: str = "*") -> dict[str, Any]:
    """The summary of a kept run, without the client's own numbers."""
    found: dict[str, Any] = {}
    for record in records(outputs, identifier):
        found |= values(record.summary.update)
    return {name: value for name, value in found.items() if not name.startswith("_")}


def kept_rows(outputs: Path, identifier: str = "*") -> list[dict[str, Any]]:
    """The rows that a kept run logged."""
    return [values(record.history.item) for record in records(outputs, identifier) if record.HasField("history")]
