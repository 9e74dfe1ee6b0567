"""From configuration to objects: only what may be named is called, with values of the constructor's types."""

from __future__ import annotations

import importlib
import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pydantic

from testbed.error import Invalid, Unsupported
from testbed.launcher.compose import parsed, values
from testbed.launcher.search import files_of, read
from testbed.words import Faulty, Refused, nearest

LIBRARY = ("torch.optim.", "torchvision.models.")
"""What of other people's code `_target_` may name: their own public classes and functions, nothing that they import."""
OWN = (
    *("testbed.attack.", "testbed.trigger.", "testbed.defence.", "testbed.detector.", "testbed.judge.", "testbed.model."),
    *("testbed.data.", "testbed.fit.", "testbed.launcher.everything.", "testbed.logger."),
)
"""What of testbed's own: what configuration is made of, not the core, where there are functions that write files."""
LARGEST = 2**53
"""Up to here every whole number is a float too; no tensor, and no number of steps, is larger."""
SCALARS = (bool, int, float, str, type(None))


def named_by_user(overrides: Collection[str], folders: Collection[Path]) -> frozenset[str]:
    """Targets that the user permitted: on the command line, or in a configuration folder named or installed."""
    permitted: set[str] = set()
    for override in map(parsed, overrides):
        last = override.key_or_group.rpartition(".")[2]
        for value in values(override) if last == "_target_" or not override.is_sweep_override() else ():
            permitted |= _targets({last: value})
    for folder in folders:
        for path in files_of(folder):
            permitted |= _targets(read(path))
    return frozenset(permitted)


def instantiate(node: Any, key: str, execution_whitelist: Collection[str] = ()) -> Any:
    """What a node of plain configuration describes: a call of its `_target_`, or the value itself.

    Raises:
        Invalid: an argument that the target does not take, lacks, or cannot use; a target that is not there.
        Refused: a target that nobody may name.
    """
    if isinstance(node, list):
        return [instantiate(item, f"{key}.{index}", execution_whitelist) for index, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    arguments = {
        name: instantiate(item, f"{key}.{name}", execution_whitelist) for name, item in node.items() if name[:1] != "_"
    }
    if "_target_" not in node:
        return arguments
    target = locate(str(node["_target_"]), key, execution_whitelist)
    arguments = checked(target, arguments, key, whole=not node.get("_partial_", False))
    if node.get("_partial_", False):
        return partial(target, **arguments)
    return called(target, arguments, key)


def called(target: Callable[..., Any], arguments: Mapping[str, Any], key: str) -> Any:
    """target(**arguments), with errors that name the configuration key.

    Raises:
        Faulty: what somebody else wrote failed in a way of its own.
    """
    try:
        return target(**arguments)
    except Invalid as error:
        error.component = error.component or key
        raise
    except Exception as error:
        module = getattr(target, "__module__", "")
        if module.partition(".")[0] == "testbed" or isinstance(error, OSError | MemoryError | Refused | Unsupported):
            raise
        name = f"{module}.{getattr(target, '__qualname__', target)}"
        raise Faulty(f"{key} {name}: {type(error).__name__}: {' '.join(str(error).split())}") from error


def locate(name: str, key: str, execution_whitelist: Collection[str]) -> Callable[..., Any]:
    """The class or function of this dotted name.

    Raises:
        Refused: nobody permitted it.
        Invalid: there is no such thing.
    """
    if not (name.startswith((*OWN, *LIBRARY)) or name in execution_whitelist):
        raise Refused(
            f"{key}._target_={name}: not permitted; name it on the command line, or in a folder given with --config-dir", 3
        )
    module, _, attribute = name.rpartition(".")
    if not module or module.startswith("."):
        raise Invalid("_target_", name, "must be a module and a class in it, such as mine.MyDefence", component=key)
    try:
        target = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if not module.startswith(error.name or "?"):
            raise
        raise Invalid(
            "_target_", name, f"there is no module {error.name}", "is its folder the working directory?", key
        ) from error
    except AttributeError as error:
        names = [known for known in vars(importlib.import_module(module)) if known[:1] != "_"]
        raise Invalid("_target_", name, f"{module} has no {attribute}", nearest(attribute, names), key) from error
    if name not in execution_whitelist:
        _check_own(name, target, key)
    return target


def _check_own(name: str, target: Any, key: str) -> None:
    """Raises `Refused` for what a permitted module has only imported or keeps for itself: loaders and copiers are among it."""
    home = next(prefix for prefix in ("testbed.", *LIBRARY) if name.startswith(prefix))
    owner = str(getattr(target, "__module__", None) or getattr(target, "__name__", ""))
    if not f"{owner}.".startswith(home) or not (inspect.isclass(target) or inspect.isroutine(target)):
        raise Refused(f"{key}._target_={name}: not {home.rstrip('.')}'s own, only imported there; name {owner} itself", 3)
    if home in LIBRARY and any(part[:1] == "_" for part in name.split(".")):
        raise Refused(f"{key}._target_={name}: {home.rstrip('.')} keeps it for itself; name what it offers", 3)


def checked(target: Callable[..., Any], arguments: Mapping[str, Any], key: str, *, whole: bool = True) -> dict[str, Any]:
    """The arguments as the target's annotations want them; all that it requires must be there if `whole`."""
    parameters = inspect.signature(target).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(arguments)
    hints = _hints(target)
    found = {}
    for name, value in arguments.items():
        if name not in parameters:
            raise Invalid(name, value, f"{target.__name__} takes no such argument", nearest(name, list(parameters)), key)
        found[name] = _converted(value, hints.get(name, Any), name, key)
        _require_numbers(value, name, key, finite=getattr(target, "__module__", "").startswith(LIBRARY))
    required = [name for name, parameter in parameters.items() if parameter.default is parameter.empty]
    absent = [name for name in required if name not in found]
    if whole and absent:
        raise Invalid(absent[0], None, "must be given", f"say {key}{'.' if key else ''}{absent[0]}=...", key)
    return found


def _converted(value: Any, annotation: Any, name: str, key: str) -> Any:
    if not isinstance(value, str | int | float | bool | list | dict | None) or (
        isinstance(value, list) and not _is_plain(value)
    ):
        if _is_scalar(annotation):  # an interpolation of a whole component, such as seed=${attack}
            raise Invalid(name, type(value).__name__, "is an object, where a plain value is read", _advice(annotation), key)
        return value
    try:
        adapter = pydantic.TypeAdapter(annotation, config=pydantic.ConfigDict(arbitrary_types_allowed=True))
    except (pydantic.errors.PydanticUserError, TypeError):  # an annotation that pydantic cannot check: the method checks it
        return value
    shown, advice = "null" if value is None else value, _advice(annotation)
    try:
        found = adapter.validate_python(value)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise Invalid(name, shown, first["msg"][0].lower() + first["msg"][1:], advice, key) from error
    if isinstance(value, bool) and isinstance(found, int | float) and not isinstance(found, bool):
        raise Invalid(name, shown, "input should be a number", advice, key)
    return found


def _require_numbers(value: Any, name: str, key: str, *, finite: bool) -> None:
    """Raises `Invalid` for whole numbers that no tensor holds, and for NaN and infinities where a library would take them."""
    for item in _numbers(value):
        if isinstance(item, int) and abs(item) > LARGEST:
            raise Invalid(name, value, "whole numbers lie within 2^53", "give a smaller one", key)
        if finite and not math.isfinite(item):
            raise Invalid(name, value, "must be a finite number", component=key)


def _numbers(value: Any) -> Iterator[int | float]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, dict):
        yield from _numbers(list(value.values()))


def _advice(annotation: Any) -> str:
    """What an annotation says beside its type, as Annotated[float, 'give a share between 0 and 1'] does."""
    return next((said for said in getattr(annotation, "__metadata__", ()) if isinstance(said, str)), "")


def _is_scalar(annotation: Any) -> bool:
    """Whether an annotation names numbers, texts and truth values alone."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _is_scalar(parts[0])
    return all(map(_is_scalar, parts)) if origin in (typing.Union, types.UnionType) else annotation in SCALARS


def _is_plain(value: list[Any]) -> bool:
    return all(
        isinstance(item, str | int | float | bool | None) or (isinstance(item, list) and _is_plain(item)) for item in value
    )


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    # A dataclass itself: the hints of its __init__ would be looked up in its own module, an inherited field's stand in another.
    owner = target.__init__ if inspect.isclass(target) and not is_dataclass(target) else target  # type: ignore[misc]
    try:
        return typing.get_type_hints(owner, include_extras=True)
    except NameError:  # annotations that exist for type checkers only
        return {}


def _targets(node: Any) -> set[str]:
    if isinstance(node, list):
        return set().union(*map(_targets, node))
    if not isinstance(node, dict):
        return set()
    own = {node["_target_"]} if isinstance(node.get("_target_"), str) else set()
    return own.union(*map(_targets, node.values()))
