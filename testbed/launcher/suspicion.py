"""What the words of `testbed audit` mean: which detectors look, and which of the model's paths is the suspect's."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from testbed.launcher.search import SearchPath
from testbed.words import Refused

NOT_ASKED = ("attack", "defence", "trigger", "judge")


def examined(overrides: Sequence[str], search: SearchPath) -> list[str]:
    """The overrides, with every detector that there is among `detectors`, unless one is named with detector=.

    Raises:
        Refused: an attack or a defence is named.
    """
    roots = {word.lstrip("+~").partition("=")[0].partition(".")[0] for word in overrides}
    strange = next((group for group in NOT_ASKED if group in roots), None)
    if strange is not None:
        raise Refused(f"{strange}: an audit asks what is in a model that somebody else made; leave it out")
    if "detector" in roots:
        return list(overrides)
    added = [f"+detector@detectors.{name}={name}" for name in sorted(search.options("detector"))]
    return [*(word for word in added if word not in overrides), *overrides]


def told_apart(config: Mapping[str, Any], permitted: Collection[str]) -> dict[str, Any]:
    """The configuration with the suspect beside the model: its path, and whether it is a file, an adapter or a folder.

    A model that has a `path` of its own (where its network and tokenizer come from) is audited by `model.weights` where that
    is given, by `model.adapter`, or else is itself the suspect.
    """
    from testbed.launcher.instantiate import locate

    model = dict(config.get("model") or {})
    adapter, path = model.pop("adapter", None), model.get("path")
    takes = inspect.signature(locate(str(model.get("_target_")), "model", permitted)).parameters
    if "path" not in takes:
        if adapter is not None:
            raise Refused(f"model.adapter={adapter}: this model takes none; give its file as model.path")
        del model["path"]
        suspect = {"kind": "file", "path": path}
    elif adapter is not None:
        suspect = {"kind": "adapter", "path": adapter}
    elif model.get("weights") is not None:
        suspect = {"kind": "file", "path": model.pop("weights")}
    else:
        suspect = {"kind": "folder", "path": path}
    return {**config, "model": model, "suspect": {name: str(value) for name, value in suspect.items()}}
