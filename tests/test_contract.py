"""Every method that is shipped keeps what its noun promises, and its configuration hides nothing."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from testbed.cli import parsed
from testbed.contract.examination import GROUPS, examine
from testbed.contract.world import World, small_world
from testbed.language import ChatTask
from testbed.launcher.compose import check_names, register
from testbed.launcher.everything import all_parts, method_node
from testbed.launcher.instantiate import instantiate
from testbed.launcher.search import SearchPath
from testbed.library import transformers
from testbed.model.toy_chat import word_tokenizer

CONF = Path(__file__).resolve().parent.parent / "conf"
METHODS = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
RECIPES = sorted(path for group in (*GROUPS, "defence/rule") for path in (CONF / group).glob("*.yaml"))


@pytest.fixture(scope="module")
def search() -> SearchPath:
    found = SearchPath()
    register(found)
    return found


@pytest.fixture(scope="module")
def worlds(search: SearchPath, tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    """By the names of their data: the world that `testbed check` begins with, and those that it goes on to."""
    outputs = f"paths.outputs={tmp_path_factory.mktemp('outputs')}"
    return {parts["data"].name: small_world(parts, 0) for parts in all_parts([outputs], search)}


@pytest.fixture(scope="module")
def folders(worlds: dict[str, World], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models of Hugging Face's kind with random weights, for methods that must be told where one lies."""
    chat, encoder = (tmp_path_factory.mktemp(name) for name in ("chat", "encoder"))
    task, library = worlds["toy_world"].data.task, transformers()
    assert isinstance(task, ChatTask)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    tokenizer = word_tokenizer(task.vocabulary)
    known = {word: number for number, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "of", "is", "."))}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        llama = library.LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **sizes, **ends)
        library.LlamaForCausalLM(llama).save_pretrained(chat)
        bert = library.BertConfig(vocab_size=len(known), max_position_embeddings=128, **sizes)
        library.BertModel(bert).save_pretrained(encoder)
    tokenizer.save_pretrained(chat)
    library.BertTokenizerFast(vocab=known).save_pretrained(encoder)
    return {"hf_chat": chat, "hf_classifier": encoder}


@pytest.mark.parametrize(("group", "name"), METHODS)
def test_a_shipped_method_keeps_its_promises(
    group: str, name: str, search: SearchPath, worlds: dict[str, World], folders: dict[str, Path]
) -> None:
    """Everywhere; and somewhere all of them could be judged, among others where the method's own command runs."""
    method = instantiate(method_node(group, name, search, folders.get(name, "nowhere")), group)
    judged = set()
    for where in _names_of_worlds(group):
        verdicts = examine(group, name, method, worlds[where])
        assert (where, [verdict for verdict in verdicts if verdict.kept is False]) == (where, [])
        if all(verdict.kept for verdict in verdicts):
            judged.add(where)
    assert judged, "it applies nowhere"
    assert _own_data(CONF / group / f"{name}.yaml") & set(_names_of_worlds(group)) <= judged


def _names_of_worlds(group: str) -> tuple[str, ...]:
    """Images, texts and conversations; for models images in colour, which not all can do without."""
    return ("icons" if group == "model" else "digits", "toy_reviews", "toy_world")


def _own_data(path: Path) -> set[str]:
    """The data that a recipe's own command names; `degrade` is for conversations."""
    words = shlex.split(path.read_text(encoding="utf-8").splitlines()[1])
    return {"toy_world"} if "degrade" in words else {word.removeprefix("data=") for word in words if word.startswith("data=")}


@pytest.mark.parametrize(("group", "name"), METHODS)
def test_a_configuration_hides_no_parameter(group: str, name: str, search: SearchPath) -> None:
    node = method_node(group, name, search)
    assert list(_hidden(node)) == []


def _hidden(node: Any) -> Iterator[str]:
    """Parameters of our classes that a node leaves to their defaults."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from _hidden(child)
    if isinstance(node, dict) and node.get("_target_", "").startswith("testbed."):
        module, _, attribute = node["_target_"].rpartition(".")
        for parameter in inspect.signature(getattr(import_module(module), attribute)).parameters.values():
            by_caller = node.get("_partial_", False) and parameter.default is parameter.empty
            if not by_caller and parameter.name not in node:
                yield f"{attribute}.{parameter.name}"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_configuration_says_what_it_is_and_how_to_run_it(path: Path, search: SearchPath) -> None:
    first, second = path.read_text(encoding="utf-8").splitlines()[:2]
    assert first.startswith("# ") and len(first) > 10
    words = shlex.split(second.removeprefix("# "))
    assert (words[:1] == ["testbed"] and f"={path.stem}" in second) or path.parent.name == "trigger"
    given = parsed(words[1:])
    check_names(str(given.verb), given.overrides, search)
