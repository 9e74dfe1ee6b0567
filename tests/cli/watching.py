"""What a process and its children write and whom they connect to, as Python's audit hooks see it."""

from __future__ import annotations

from pathlib import Path

SITE = """
import os, sys
log = os.open(os.environ["WATCH_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGED = {"os.mkdir": (0, 2), "os.remove": (0, 1), "os.rmdir": (0, 1), "os.truncate": (0, 0), "os.chmod": (0, 2),
           "os.rename": (1, 3), "os.link": (1, 3), "os.symlink": (1, 2)}  # event: the path, and the folder that it lies in
def tell(event, what):
    os.write(log, f"{event}\\t{what}\\n".encode("utf-8", "surrogateescape"))
def place(path, folder):
    where = os.readlink(f"/proc/self/fd/{folder}") if isinstance(folder, int) and folder >= 0 else os.getcwd()
    return os.path.realpath(os.path.join(where, os.fsdecode(path)))
def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        tell("connect", arguments[1])
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        tell("look up", arguments[0])
    elif event == "open" and isinstance(arguments[0], (str, bytes)) and (arguments[2] or 0) & WRITING:
        tell("write", os.path.realpath(os.fsdecode(arguments[0])))
    elif event in CHANGED and isinstance(arguments[CHANGED[event][0]], (str, bytes)):
        path, folder = (arguments[each] for each in CHANGED[event])
        tell("write", place(path, folder))
sys.addaudithook(watch)
"""


def install(folder: Path) -> dict[str, str]:
    """The variables under which every Python process reports to `folder`/log, with a home and a temporary folder of its own."""
    for name in ("site", "home", "tmp"):
        (folder / name).mkdir(parents=True)
    (folder / "site" / "sitecustomize.py").write_text(SITE, encoding="utf-8")
    (folder / "log").touch()
    places = {"HOME": "home", "TMPDIR": "tmp", "WATCH_LOG": "log"}
    unset = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "HF_HOME", "TORCH_HOME", "WANDB_DIR", "WANDB_CACHE_DIR")
    unset += ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")  # which PyTorch and this software set for their children
    return {**{name: str(folder / place) for name, place in places.items()}, **{name: "" for name in unset}}


def seen(folder: Path, event: str) -> list[str]:
    """What was reported of an event, in order."""
    lines = (folder / "log").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return [what for name, _, what in (line.partition("\t") for line in lines) if name == event]
