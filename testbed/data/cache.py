"""What is slow to make and never changes is kept in files: decoded images, and the digests of files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from testbed.files import beside
from testbed.words import Refused


def digest_of(*parts: str | bytes) -> str:
    """SHA-256 over the parts, each with its length, so that no two lists of parts are confused."""
    state = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        state.update(f"{len(content)}:".encode())
        state.update(content)
    return state.hexdigest()


def tensors_digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, shapes, types and bytes."""
    state = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].contiguous()
        state.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        state.update(values.numpy().data)
    return state.hexdigest()


def load_tensors(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a file that `cached_tensors` wrote; None where there is none or a bit of it has changed."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            written = (file.metadata() or {}).get("sha256")
    except SafetensorError:
        return None
    return tensors if written == tensors_digest(tensors) else None


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write the tensors with their digest, by rename: other processes see the whole file or none."""
    with replaced(path) as temporary:
        save_file(tensors, temporary, metadata={"sha256": tensors_digest(tensors)})


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A file of another name beside `path`, which takes its place where all went well.

    Raises:
        Refused: it cannot be written there.
    """
    temporary = beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise Refused(f"data.cache={path.parent}: cannot be written ({why}); say data.cache=DIR", 4) from error
    finally:
        with suppress(OSError):  # its folder may be no folder
            temporary.unlink(missing_ok=True)


def cached_tensors(cache: str | Path, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What `make` makes, kept in `cache/name.safetensors`; a damaged file is made again, with the same content."""
    path = Path(cache) / f"{name}.safetensors"
    tensors = load_tensors(path)
    if tensors is None:
        tensors = make()
        save_tensors(path, tensors)
    return tensors


def file_digests(root: Path, names: Sequence[str], cache: str | Path | None) -> list[str]:
    """SHA-256 of each file `root/name`.

    With a `cache` folder, a file of unchanged size and modification time is not read again.
    """
    memo_path = None if cache is None else Path(cache) / f"files-{digest_of(str(root.resolve()))[:16]}.json"
    memo = {} if memo_path is None else read_memo(memo_path)
    digests, changed = [], False
    for name in names:
        path = root / name
        status = path.stat()
        known = memo.get(name)
        if known is None or known[:2] != [status.st_size, status.st_mtime_ns]:
            with path.open("rb") as file:
                known = [status.st_size, status.st_mtime_ns, hashlib.file_digest(file, "sha256").hexdigest()]
            memo[name], changed = known, True
        digests.append(known[2])
    if memo_path is not None and changed:
        write_memo(memo_path, memo)
    return digests


def read_memo(path: Path) -> dict[str, list]:
    """The memo {name: [size, modification time in ns, SHA-256]}; empty where there is none that can be read."""
    try:
        memo = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # Only time is lost: what is not in the memo is read and hashed again.
        return {}
    return memo if isinstance(memo, dict) else {}


def write_memo(path: Path, memo: dict[str, list]) -> None:
    """Write the memo by rename."""
    with replaced(path) as temporary:
        temporary.write_text(json.dumps(memo), encoding="utf-8")
