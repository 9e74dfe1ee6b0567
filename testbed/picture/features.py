"""Where poisoned rows lie among the others in the space of features."""

from __future__ import annotations

import torch
from torch import Tensor

from testbed.api import Unsupported
from testbed.features import read, select
from testbed.figure import plot
from testbed.identity import generator
from testbed.picture.view import Measures, View

MOST = 1500
"""Rows that are drawn: t-SNE takes time and memory that grow faster than they do."""


def features(view: View) -> Measures:
    """t-SNE of penultimate features of the training rows as received, the attacker's marked, and how far these stand apart.

    `features_silhouette` in -1..1 is the mean silhouette of poisoned against clean rows that bear the commonest label of the
    poison, in the space of features itself, where distances mean something; None with fewer than two of either.

    Sources: van der Maaten and Hinton 2008 (JMLR); Rousseeuw 1987; as a picture of latent separation, Qi et al. 2023 (ICLR).
    """
    if len(view.received) < 5:
        raise Unsupported("too few rows for a map of them")
    rows = _some(view.flags, generator(view.seed, "rows of the map"))
    reading, flags = read(view.victim, select(view.received, rows), "penultimate"), view.flags[rows]
    labels = reading.labels
    label = int(labels[flags].mode().values) if flags.any() else -1
    _draw(view, _placed(reading.features, view.seed), flags, labels == label)
    return {"features_silhouette": _silhouette(reading.features[labels == label], flags[labels == label])}


def _some(flags: Tensor, draw: torch.Generator) -> Tensor:
    """Rows to draw, ascending: a third of them poisoned at most, if there are so many."""
    mine, others = (kind.nonzero().flatten() for kind in (flags, ~flags))
    mine, others = (kind[torch.randperm(len(kind), generator=draw)] for kind in (mine, others))
    mine = mine[: MOST // 3]
    return torch.cat([mine, others[: MOST - len(mine)]]).sort().values


def _placed(values: Tensor, seed: int) -> Tensor:
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(values) - 1) / 3)
    spread = bool((values.std(0) > 0).any())
    places = TSNE(perplexity=perplexity, init="pca" if spread else "random", random_state=seed % 2**32)
    return torch.from_numpy(places.fit_transform(values.double().numpy()))


def _silhouette(values: Tensor, flags: Tensor) -> float | None:
    if min(int(flags.sum()), int((~flags).sum())) < 2:
        return None
    from sklearn.metrics import silhouette_score

    return float(silhouette_score(values.double().numpy(), flags.numpy()))


def _draw(view: View, places: Tensor, flags: Tensor, target: Tensor) -> None:
    with plot(view.folder / "figures" / "features.png", (6.0, 5.0)) as (_, axis):
        kinds = (
            ("other classes, clean", ~flags & ~target, {"c": "tab:gray", "alpha": 0.35, "marker": "."}),
            ("the poison's label, clean", ~flags & target, {"c": "tab:blue", "alpha": 0.7, "marker": "."}),
            ("poisoned", flags, {"c": "tab:red", "alpha": 0.8, "marker": "x", "s": 18}),
        )
        for name, chosen, style in kinds:
            if chosen.any():
                axis.scatter(*places[chosen].T.numpy(), label=f"{name} (n = {int(chosen.sum())})", linewidths=0.8, **style)
        axis.set(title="training rows as received: t-SNE of penultimate features", xticks=[], yticks=[])
        axis.legend(fontsize="small", framealpha=0.9)
