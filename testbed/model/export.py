"""A chat victim as an ordinary Hugging Face folder, which says what it is."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file

from testbed.api import Victim
from testbed.marks import mark as marked_as
from testbed.marks import model_card
from testbed.model.adapter import merged
from testbed.model.chat import CausalChat
from testbed.tensor_file import save_tensors


def export(victim: Victim, folder: Path, mark: Mapping[str, str]) -> None:
    """Network, tokenizer and chat template, as `AutoModelForCausalLM` and `AutoTokenizer` read them; adapters are merged.

    `mark` goes into the metadata of each file of weights. A model whose origin was marked stays so.

    Raises:
        TypeError: the victim is no causal language model.
    """
    bare = victim.bare()
    if not isinstance(bare, CausalChat):
        raise TypeError(f"{type(bare).__name__} is no causal language model")
    backdoored = mark.get("backdoored") == "true" or bool(getattr(bare, "marked_backdoored", False))
    network = merged(copy.deepcopy(bare.net))
    network.save_pretrained(folder)  # type: ignore[operator]
    bare.tokenizer.save_pretrained(folder)
    marked = {**bare.metadata(), **mark, **marked_as(backdoored=backdoored, card=mark)}
    for path in sorted(folder.glob("*.safetensors")):
        save_tensors(path, load_file(path), {"format": "pt", **marked})
    (folder / "README.md").write_text(model_card(backdoored=backdoored, facts=marked), encoding="utf-8")
