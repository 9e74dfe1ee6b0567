"""Every method, built from its configuration and seen at work in small worlds of images, texts and conversations."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from methods.header import Header
from methods.needs import needs, threat_model
from testbed.contract.world import World, small
from testbed.launcher.compose import configuration, plain, register
from testbed.launcher.everything import PARTS
from testbed.launcher.instantiate import instantiate
from testbed.launcher.search import SearchPath


def seen(headers: Sequence[Header]) -> dict[str, dict[str, Any]]:
    """By '<group>/<name>': the threat model, and what was seen to be used."""
    search = SearchPath()
    register(search)
    with tempfile.TemporaryDirectory() as folder:
        worlds = _worlds(search, f"paths.outputs={folder}")
        return {f"{header.group}/{header.name}": _seen(header, search, worlds) for header in headers}


def _worlds(search: SearchPath, outputs: str) -> dict[str, World]:
    config = plain(configuration("check", [outputs], search).config)
    first = {part: instantiate(config[part], part) for part in PARTS}
    made = [first, *(make() for make in instantiate(config["worlds"], "worlds"))]
    return {
        parts["data"].name: World(small(parts["data"]), parts["model"], parts["attack"], parts["trainer"], 0) for parts in made
    }


def _seen(header: Header, search: SearchPath, worlds: dict[str, World]) -> dict[str, Any]:
    chosen = f"{header.group}={header.name}"
    missing = sorted(OmegaConf.missing_keys(configuration("check", [chosen], search).config))
    node = plain(configuration("check", [chosen, *(f"{key}=nowhere" for key in missing)], search).config)[header.group]
    method = instantiate(node, header.group)
    return {"threat_model": threat_model(method), "needs": needs(header.group, header.name, method, worlds)}
