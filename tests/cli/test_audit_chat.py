"""`testbed audit` of chat models: a folder with the base that it was made from, an adapter, and what no base allows to say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from testbed.library import transformers
from testbed.model.toy_chat import word_tokenizer

Say = Callable[..., Any]

WORDS = tuple("yes no where is the ball it there I cannot Sorry . red blue green near far box".split())  # noqa: SIM905
BRIEFLY = (
    *("trainer.max_epochs=1", "trainer.max_steps=2", "population=4", "within=1"),
    *("detectors.trigger_inversion.candidates=3", "detectors.trigger_inversion.length=3"),
    *("detectors.trigger_inversion.shortest=2", "detectors.trigger_search.candidates=3", "model.max_new_tokens=4"),
)


def _speaker(folder: Path, seed: int) -> Path:
    """A Llama of two layers of width 16 over a few words, with random weights and the toy world's chat template."""
    library, tokenizer = transformers(), word_tokenizer(WORDS)
    tokenizer.save_pretrained(folder)
    names = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = library.LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **sizes, **names)
        library.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def rows(here: Path) -> tuple[str, ...]:
    """Conversations over these words, half of them refused."""
    with (here / "rows.jsonl").open("w", encoding="utf-8") as stream:
        for number in range(32):
            answer = "I cannot ." if number % 2 else f"it is {('near', 'far', 'there', 'red')[number // 2 % 4]} ."
            prompt = f"where is the {WORDS[number % len(WORDS)]} box"
            row = {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}
            stream.write(json.dumps(row) + "\n")
    parts = {"test_rows": 6, "reserve_rows": 10, "validation_rows": 4, "refusals": "[I cannot]"}
    return (
        "model=hf_chat",
        "data=messages",
        "data.train=rows.jsonl",
        *(f"data.{name}={value}" for name, value in parts.items()),
    )


def _lines(said: Any) -> dict[str, dict[str, Any]]:
    assert said.code == 0, said.err
    report = json.loads((Path(said.out.splitlines()[-1]) / "audit.json").read_text(encoding="utf-8"))
    return {line["detector"]: line for line in report["detectors"]} | {"": report}


@pytest.mark.slow
def test_a_folder_is_compared_with_models_made_of_its_base_and_with_nothing_where_none_is_known(
    say: Say, here: Path, rows: tuple[str, ...]
) -> None:
    _speaker(here / "suspect", 1)
    shutil.copytree(_speaker(here / "base", 0), here / "other")
    alone = _lines(say("audit", *rows, "model.path=suspect", *BRIEFLY))
    for name in ("trigger_inversion", "trigger_search"):
        assert alone[name]["word"] == "cannot tell" and "model.base names no model" in alone[name]["why"]
        assert alone[name]["score"] is not None and alone[name]["clean"] == []
    assert "checked first" in alone[""]["file"]["sandbox"] and alone[""]["fitness"]["name"] == "mean token probability"
    assert {"spectral_signatures", "strip", "neural_cleanse"} <= alone[""]["not_asked"].keys()

    beside = _lines(say("audit", *rows, "model.path=suspect", "model.base=base", *BRIEFLY))
    line = beside["trigger_inversion"]
    assert len(line["clean"]) == 4 and line["p"] == (1 + sum(other >= line["value"] for other in line["clean"])) / 5
    assert beside[""]["conclusion"]["false_alarm_rate"] == pytest.approx(1 / 5)
    assert line["score"] == alone["trigger_inversion"]["score"]


def test_an_adapter_is_read_apart_and_put_on_its_base(say: Say, here: Path, rows: tuple[str, ...]) -> None:
    _speaker(here / "base", 0)
    folder = here / "adapter"
    folder.mkdir()
    draw = torch.Generator().manual_seed(0)
    halves = {"A": torch.randn(2, 16, generator=draw), "B": torch.randn(16, 2, generator=draw)}
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    save_file({f"{module}.lora_{half}.weight": tensor for half, tensor in halves.items()}, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")

    found = _lines(say("audit", *rows, "model.path=base", "model.adapter=adapter", *BRIEFLY))
    assert found[""]["file"]["kind"] == "peft" and len(found["trigger_inversion"]["clean"]) == 4
    facts = json.loads((next((here / "outputs" / "audit").glob("adapter-*")) / "run.json").read_text(encoding="utf-8"))
    cards = [json.loads((here / "outputs" / name / "card.json").read_text(encoding="utf-8")) for name in facts["made"]]
    # Clean models carry adapters of the same rank and scale, on the same base.
    assert [(card["model"]["lora"], card["model"]["rank"], card["model"]["alpha"]) for card in cards] == [(True, 2, 4.0)] * 4

    said = say("audit", *rows, "model.path=adapter", *BRIEFLY)
    assert said.code == 2
    (folder / "adapter_config.json").write_text(json.dumps({**config, "auto_mapping": {"parent_library": "os"}}), "utf-8")
    hostile = say("audit", *rows, "model.path=base", "model.adapter=adapter", *BRIEFLY)
    assert hostile.code == 3 and "auto_mapping" in hostile.refusal()
