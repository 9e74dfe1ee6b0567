"""Caches that libraries keep for themselves: below the outputs, where everything else is written too."""

from __future__ import annotations

import os
from pathlib import Path

CACHES = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
"""By the variable that moves it: what a cache is called below `cache`."""
FONTS = "MPLCONFIGDIR"
USUAL = (("XDG_CACHE_HOME", ".cache"), ("XDG_CONFIG_HOME", ".config"))
"""Where Matplotlib keeps its list of fonts, and its settings, unless it is told otherwise."""
QUIET = {"HF_HUB_DISABLE_TELEMETRY": "1"}


def contain(outputs: str | Path) -> None:
    """Move caches of libraries below these outputs, unless the user said where they go, and switch telemetry off.

    Matplotlib's list of fonts takes seconds to make: one that the user has already is read, and none is written.
    """
    place = Path(outputs).absolute() / "cache"
    moved = CACHES if _has_fonts() else {**CACHES, FONTS: "matplotlib"}
    for name, value in {**{name: str(place / folder) for name, folder in moved.items()}, **QUIET}.items():
        if not os.environ.get(name):
            os.environ[name] = value


def _has_fonts() -> bool:
    """Whether Matplotlib would find its folders made and its fonts listed."""
    home = Path.home()
    cache, config = (Path(os.environ.get(name) or home / usual) for name, usual in USUAL)
    return (config / "matplotlib").is_dir() and any((cache / "matplotlib").glob("fontlist-*.json"))
