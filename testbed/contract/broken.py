"""What is said of a promise that was not kept. Imports nothing heavy, for runs say it too."""

from __future__ import annotations

ADVICE = {
    "rows": "work on a copy, such as batch.inputs.clone()",
    "model": "work on a copy: copy.deepcopy(victim)",
    "randomness": "draw from a generator of its own: testbed.identity.generator(resources.seed, 'a purpose')",
}
SECRETS = ("poison", "poisoned", "is_poisoned", "poison_indicator", "flags", "positions", "source", "cover", "attack")
"""Names under which somebody may look for what only the pipeline knows."""


class Broken(Exception):
    """A promise that was not kept, and how."""


def require(condition: bool, reason: str) -> None:
    """Raises `Broken` with this reason unless the condition holds."""
    if not condition:
        raise Broken(reason)


def told(error: BaseException) -> str:
    """An error in one line; what there is to know where somebody looked for what only the pipeline knows."""
    secret = isinstance(error, AttributeError) and error.name in SECRETS
    why = "; which rows are poisoned is told to nobody but controls with `oracle = True`, who say oracle in their name"
    return f"{type(error).__name__}: {' '.join(str(error).split())}{why if secret else ''}"
