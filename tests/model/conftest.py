"""A very small encoder of Hugging Face's kind, saved as people have theirs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from testbed.library import transformers

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
