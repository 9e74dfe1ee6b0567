"""Training, models a little apart, and very small models in folders, for tests of methods on chat models."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from testbed.api import Batch, Examples, Victim
from testbed.fit import Settings, constant, fit
from testbed.language import ChatTask, ChatVictim
from testbed.library import transformers
from testbed.model.hf_chat import HfChat
from testbed.model.toy_chat import word_tokenizer

Family = Literal["llama", "gpt2"]

ADAMW = partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.0)
SETTINGS = Settings(max_epochs=1, batch_size=8, optimiser=ADAMW, schedule=constant, channels_last=False, threads=1)


def tuned(victim: Victim, examples: Examples, **options: Any) -> Victim:
    return fit(victim, examples, settings=SETTINGS, seed=3, **options)[0].bare()


def moved(victim: ChatVictim, seed: int, size: float = 0.05) -> ChatVictim:
    """A copy with noise on every weight."""
    found, draw = copy.deepcopy(victim), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=draw))
    return found


def equal(one: Victim, other: Victim) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def some(examples: Examples, count: int = 6) -> Batch:
    return examples[torch.arange(count)]


def stored(folder: Path, family: Family, task: ChatTask, *, seed: int = 0, depth: int = 2) -> Path:
    """A Llama or a GPT-2 of width 32 over the toy world's words, with random weights, as people have theirs."""
    library, tokenizer = transformers(), word_tokenizer(task.vocabulary)
    names = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    names |= {"vocab_size": len(tokenizer), "initializer_range": 0.2}
    sizes = {"hidden_size": 32, "num_hidden_layers": depth, "num_attention_heads": 2, "intermediate_size": 48}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if family == "llama":
            config = library.LlamaConfig(**names, **sizes, max_position_embeddings=96)
            network = library.LlamaForCausalLM(config)
        else:
            config = library.GPT2Config(**names, n_embd=32, n_layer=depth, n_head=2, n_positions=96)
            network = library.GPT2LMHeadModel(config)
    for parameter in network.parameters():
        if parameter.ndim == 1 and not bool(parameter.any()):  # biases that are 0 would hide that they are forgotten
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(seed))
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def loaded(folder: Path, task: ChatTask, **options: Any) -> HfChat:
    """Drawn as a run draws it: what is random follows a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return HfChat(task, path=folder, max_new_tokens=8, **options).eval()


def adapted(victim: HfChat, seed: int, size: float = 0.05) -> HfChat:
    """A copy whose adapters, or else whose weights, are elsewhere."""
    found, draw = copy.deepcopy(victim), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in found.parameters():
            if parameter.requires_grad:
                parameter.add_(size * torch.randn(parameter.shape, generator=draw))
    return found
