"""Every method, built from its configuration and seen at work in small worlds of images, texts and conversations."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

from methods.header import Header
from methods.needs import KEEPS, needs, threat_model
from testbed.contract.world import small_world
from testbed.launcher.compose import register
from testbed.launcher.everything import all_parts, method_node
from testbed.launcher.instantiate import instantiate
from testbed.launcher.search import SearchPath


def seen(headers: Sequence[Header]) -> dict[str, dict[str, Any]]:
    """By '<group>/<name>': the threat model, and what was seen to be used."""
    search = SearchPath()
    register(search)
    with tempfile.TemporaryDirectory() as folder:
        worlds = [small_world(parts, 0) for parts in all_parts([f"paths.outputs={folder}"], search)]
        by_name = {world.data.name: world for world in worlds}
        found = {}
        for header in headers:
            method = instantiate(method_node(header.group, header.name, search), header.group)
            used = needs(header.group, header.name, method, by_name)
            told = {"threat_model": threat_model(method, used), "needs": sorted(used - {KEEPS})}
            found[f"{header.group}/{header.name}"] = told
        return found
