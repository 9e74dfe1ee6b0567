"""What detectors ask of the data before anything is trained."""

from __future__ import annotations

from testbed.api import DefenderResources, ImageTask, Invalid, Task, Unsupported


def require_images(task: Task) -> ImageTask:
    """Raises `Unsupported` for anything but images."""
    if not isinstance(task, ImageTask):
        raise Unsupported(f"needs images, not {task.kind}")
    return task


def require_labels(task: Task) -> None:
    """Raises `Unsupported` where answers are of no kinds that could be told apart."""
    if not task.classes:
        raise Unsupported("needs classes, or for a chat the two kinds of answers")


def require_language(task: Task) -> None:
    """Raises `Unsupported` for anything but texts and conversations."""
    if task.kind not in ("text", "chat"):
        raise Unsupported(f"needs text, not {task.kind}")


def reserve_setting(task: Task) -> str:
    """The parameter of the data by which the clean reserve is made larger."""
    return "reserve_rows" if task.kind == "chat" else "reserve_per_class"


def require_reserve(resources: DefenderResources, at_least: int) -> None:
    """Raises `Invalid` where the defender's clean reserve is too small."""
    if len(resources.reserve) < at_least:
        limit = f"the reserve has {len(resources.reserve)} clean rows, and at least {at_least} are needed"
        raise Invalid(reserve_setting(resources.task), None, limit, "raise it", "data")


def require_above(parameter: str, value: float, lower: float) -> None:
    """Raises `Invalid` unless value > lower."""
    if not value > lower:
        raise Invalid(parameter, value, f"must be above {lower:g}", "choose a larger one")


def require_at_least(parameter: str, value: int, lower: int) -> None:
    """Raises `Invalid` unless value >= lower."""
    if not value >= lower:
        raise Invalid(parameter, value, f"must be at least {lower}", "choose a larger one")


def require_between(parameter: str, value: float, lower: float, upper: float) -> None:
    """Raises `Invalid` unless lower < value < upper."""
    if not lower < value < upper:
        raise Invalid(parameter, value, f"must lie between {lower:g} and {upper:g}", "both ends excluded")
