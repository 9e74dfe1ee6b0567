"""A very small encoder and a very small causal language model of Hugging Face's kind, saved as people have theirs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from testbed.library import transformers
from testbed.model.toy_chat import word_tokenizer

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"the film is not dull but warm and fine , . !".split())  # noqa: SIM905


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of three layers of width 8 over a few words, with random weights."""
    folder, library = tmp_path_factory.mktemp("encoder"), transformers()
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    library.BertTokenizerFast(vocab={word: number for number, word in enumerate(WORDS)}).save_pretrained(folder)
    sizes = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = library.BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, **sizes)
        library.BertModel(config).save_pretrained(folder)
    return folder


SAID = tuple("<think> </s> I cannot Sorry yes no where is the ball it there".split())  # noqa: SIM905


@pytest.fixture(scope="session")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers of width 16 over a few words, with random weights and the toy world's chat template."""
    folder, library, tokenizer = tmp_path_factory.mktemp("speaker"), transformers(), word_tokenizer(SAID)
    tokenizer.save_pretrained(folder)
    names = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = library.LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **sizes, **names)
        library.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def own(speaker: Path, tmp_path: Path) -> Path:
    """A copy of it that may be written to."""
    return Path(shutil.copytree(speaker, tmp_path / "own"))
