"""Poisons and victims that are made once and shared by every run: stored by key, trained under a lock, marked."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, load_model
from torch import Tensor

from testbed.api import Attack, Batch, Examples, Poison, Victim
from testbed.files import Damaged, committed, read_json, verify, write_json
from testbed.fit import Curve, Settings, fit, placed
from testbed.identity import TRAINING_CORE, describe, examples_digest, key, sources, weights_digest
from testbed.language import Message
from testbed.lock import lock
from testbed.marks import CANARY, model_card, origin_of
from testbed.marks import mark as marked_as
from testbed.record import Workspace, warn
from testbed.tensor_file import save_network, save_tensors

if TYPE_CHECKING:
    from testbed.checkpointing import Resumable


@dataclass(frozen=True)
class SharedFit:
    """`api.Fit` over a folder: equal victims, rows and options are trained once, whoever asks.

    `context` describes what else takes part in this training (an attack or a defence that controls it); `backdoored` is the
    mark that the victim gets, `role` what `run.json` calls it. A fit with a loss or callbacks of its own, or with a
    closure for an optimiser, cannot be told from others and is not shared.
    """

    outputs: Path
    settings: Settings
    seed: int
    workspace: Workspace
    backdoored: bool
    context: tuple[Any, ...] = ()
    validation: Examples | None = None
    role: str | None = None

    def __call__(
        self,
        victim: Victim,
        examples: Examples,
        *,
        epochs: int | None = None,
        steps: int | None = None,
        optimiser: Callable[..., torch.optim.Optimizer] | None = None,
        loss: Callable[[Victim, Batch], Tensor] | None = None,
        callbacks: Sequence[Any] = (),
    ) -> Victim:
        settings = replace(
            self.settings,
            max_epochs=self.settings.max_epochs if epochs is None else epochs,
            max_steps=steps if epochs is not None or steps is not None else self.settings.max_steps,
            optimiser=optimiser or self.settings.optimiser,
        )
        named = None if loss is not None or callbacks else self._key_if_any(victim, examples, settings)
        if named is None:
            return fit(victim, examples, settings=settings, seed=self.seed, loss=loss, callbacks=callbacks)[0]
        folder = self.outputs / "victim" / named
        if self.role is not None:
            self.workspace.victims[self.role] = named
        with lock(folder) as held:
            if whole(folder, "card.json"):
                self.workspace.reused.append(f"victim/{named}")
                return load_victim(victim, folder, settings)
            resumable = self._resumable(named, settings)
            trained, curve = fit(
                victim, examples, settings=settings, seed=self.seed, validation=self.validation, resumable=resumable
            )
            with committed(folder, held) as place:
                card = {"key": named, "rows": len(examples), "seed": self.seed}
                save_victim(trained, place, curve, {**card, **self._origin()}, self.backdoored)
            if resumable is not None:
                resumable.drop()
            self.workspace.made.append(f"victim/{named}")
            return trained

    def _resumable(self, named: str, settings: Settings) -> Resumable | None:
        if settings.checkpoint_seconds is None:
            return None
        from testbed.checkpointing import Resumable  # with Lightning, which a run that trains nothing does without

        mark = marked_as(backdoored=self.backdoored, card=self._origin())
        return Resumable(self.outputs / "checkpoint" / named, settings.checkpoint_seconds, mark)

    def _origin(self) -> dict[str, str]:
        return origin_of(self.workspace.folder / "manifest.json") if self.backdoored else {}

    def _key_if_any(self, victim: Victim, examples: Examples, settings: Settings) -> str | None:
        """None where something cannot be told from others of its kind: an optimiser that is a closure, say."""
        try:
            return self.key(victim, examples, settings)
        except TypeError:
            return None

    def key(self, victim: Victim, examples: Examples, settings: Settings) -> str:
        """Over the untrained victim, the rows, the trainer, the seed and whatever controls training."""
        return key(
            victim=describe(victim),
            weights=weights_digest(victim),
            rows=examples_digest(examples),
            trainer=describe(settings),
            seed=self.seed,
            context=describe(self.context),
            sources=sources(victim, self.context, settings, core=TRAINING_CORE),
        )


def whole(folder: Path, last: str) -> bool:
    """Whether an artefact is there and every file of it is what was written; one that is damaged is named, and made again."""
    if not (folder / last).is_file():
        return False
    try:
        return bool(verify(folder))
    except Damaged as why:
        warn(f"{why}; it is made again")
        return False


def save_victim(victim: Victim, folder: Path, curve: Curve, card: Mapping[str, Any], backdoored: bool) -> None:
    """The bare victim, what the attacker wrapped around it apart, its learning curve, and the mark on each of them."""
    bare = victim.bare()
    backdoored = backdoored or getattr(bare, "marked_backdoored", False)  # trained on from a file that was marked
    mark = marked_as(backdoored=backdoored, card=card)
    own: dict[str, str] = getattr(bare, "metadata", dict)()
    part: dict[str, Tensor] = getattr(bare, "stored_part", dict)()  # adapters, where nothing else was trained
    if part:
        save_tensors(folder / "model.safetensors", part, {**own, **mark})
    else:
        save_network(folder / "model.safetensors", bare, {**own, **mark})
    wrapped = _attackers_own(victim)
    if wrapped:
        save_tensors(folder / "attack_state.safetensors", wrapped, mark)
    write_json(folder / "curve.json", curve)
    write_json(folder / "card.json", {**card, **mark, "backdoored": backdoored, "model": describe(bare)})
    (folder / "README.md").write_text(model_card(backdoored=backdoored, facts={**own, **card, **mark}), encoding="utf-8")


def load_victim(victim: Victim, folder: Path, settings: Settings) -> Victim:
    """A stored victim, in the memory format and on the device where training would have left it."""
    loaded = copy.deepcopy(victim)
    part: dict[str, Tensor] = getattr(loaded.bare(), "stored_part", dict)()
    missing, _ = load_model(loaded.bare(), str(folder / "model.safetensors"), strict=not part)
    if part.keys() & set(missing):
        raise OSError(f"{folder / 'model.safetensors'} lacks {sorted(part.keys() & set(missing))[0]}")
    apart = folder / "attack_state.safetensors"
    if apart.is_file():
        loaded.load_state_dict(load_file(apart), strict=False)
    return placed(loaded, settings).eval()


def shared_poison(attack: Attack, make: Callable[[], Poison], outputs: Path, named: str, workspace: Workspace) -> Poison:
    """The poison of this key: read back if it was crafted before, otherwise crafted and stored."""
    folder = outputs / "poison" / named
    with lock(folder) as held:
        if whole(folder, "poison.json"):
            workspace.reused.append(f"poison/{named}")
            return load_poison(folder)
        poison = make()
        with committed(folder, held) as place:
            _save_poison(poison, place, {"attack": describe(attack), "canary": CANARY})
        workspace.made.append(f"poison/{named}")
        return poison


def _save_poison(poison: Poison, folder: Path, facts: Mapping[str, Any]) -> None:
    mark = {"backdoored": "true", "do_not_deploy": "true", "canary": CANARY}
    save_parts(folder, "poison", {"indices": poison.indices, **poison.batch._asdict(), "cover": poison.cover}, mark, facts)


def load_poison(folder: Path) -> Poison:
    """A stored poison."""
    parts = load_parts(folder, "poison")
    return Poison(parts["indices"], Batch(parts["inputs"], parts["labels"], parts["rows"]), parts["cover"])


def save_parts(folder: Path, stem: str, parts: Mapping[str, Any], mark: Mapping[str, str], facts: Mapping[str, Any]) -> None:
    """Parts of rows: tensors, marked, as `stem`.safetensors, and the rest with `facts` as `stem`.json, for its owner's eyes.

    Texts may be a user's own.
    """
    tensors = {name: part.clone() for name, part in parts.items() if isinstance(part, Tensor)}
    save_tensors(folder / f"{stem}.safetensors", tensors, mark)
    texts = {name: part for name, part in parts.items() if not isinstance(part, Tensor)}
    (folder / f"{stem}.json").touch(mode=0o600)
    write_json(folder / f"{stem}.json", {**facts, "texts": texts})


def load_parts(folder: Path, stem: str) -> dict[str, Any]:
    """The parts of rows that `save_parts` stored."""
    parts = {**load_file(folder / f"{stem}.safetensors"), **read_json(folder / f"{stem}.json")["texts"]}
    inputs = parts.get("inputs")
    if isinstance(inputs, list) and inputs and not isinstance(inputs[0], str):  # conversations: JSON knows no tuples
        parts["inputs"] = [tuple(Message(*turn) for turn in prompt) for prompt in inputs]
    return parts


def _attackers_own(victim: Victim) -> dict[str, Tensor]:
    bare = {id(value) for value in victim.bare().state_dict(keep_vars=True).values()}
    own = {name: value for name, value in victim.state_dict(keep_vars=True).items() if id(value) not in bare}
    return {name: value.detach().cpu().contiguous() for name, value in own.items()}
