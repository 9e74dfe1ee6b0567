"""Which channels the trigger moves, against the size of the weights that read them."""

from __future__ import annotations

import torch
from torch import Tensor

from testbed.features import evaluating, on_device
from testbed.figure import plot
from testbed.picture.view import Measures, View

MOST = 512


def activation_change(view: View) -> Measures:
    """The trigger-activation change of each penultimate channel against the norm of the weights that read it.

    TAC_k = mean over rows x of |a_k(x) - a_k(T(x))|, a_k being channel k's pooled activation; norm_k is the L2 norm of column k
    of the linear head, and channels that a defence has silenced (norm 0) are left out. `activation_change_correlation` is
    Spearman's between the two, in -1..1, None where one of them is constant; `activation_change_top_share` is the share of the
    sum of TAC that the tenth of the channels with the most has.

    Source: TAC of Zheng et al. 2022 (ECCV, arXiv 2208.03111), there with an L2 norm over whole maps.
    """
    norms = view.norms()
    live = norms.nonzero().flatten()
    weight, change = norms[live], moved(view)[live]
    _draw(view, weight, change, live)
    top = change.sort(descending=True).values[: max(1, round(len(change) / 10))]
    share = float(top.sum() / change.sum()) if change.sum() > 0 else None
    return {"activation_change_correlation": _rank_correlation(weight, change), "activation_change_top_share": share}


@torch.no_grad()
def moved(view: View) -> Tensor:
    """TAC of each penultimate channel over the first 512 rows of the exam, float64 (channels,)."""
    exam = view.attacked()
    places = torch.arange(len(exam.indices))[:MOST]
    clean, shown = view.test[exam.indices[places]].inputs, exam.batch.inputs[places]
    found = []
    with evaluating(view.victim):
        for before, after in zip(clean.split(256), shown.split(256), strict=True):
            pair = [
                view.victim.features(on_device(inputs, view.victim.device), "penultimate").flatten(1)
                for inputs in (before, after)
            ]
            found.append((pair[0] - pair[1]).abs().double().cpu())
    return torch.cat(found).mean(0)


def _rank_correlation(one: Tensor, other: Tensor) -> float | None:
    from scipy.stats import spearmanr

    if len(one) < 3 or one.unique().numel() < 2 or other.unique().numel() < 2:
        return None
    return float(spearmanr(one.numpy(), other.numpy()).statistic)


def _draw(view: View, weight: Tensor, change: Tensor, names: Tensor) -> None:
    with plot(view.folder / "figures" / "activation_change.png", (6.0, 4.2)) as (_, axis):
        axis.scatter(weight.numpy(), change.numpy(), color="tab:purple", s=22, alpha=0.8)
        for channel in change.argsort(descending=True)[:5].tolist():
            axis.annotate(
                str(int(names[channel])),
                (float(weight[channel]), float(change[channel])),
                xytext=(4, 2),
                textcoords="offset points",
            )
        axis.set(title=f"{len(change)} last channels: what the trigger moves, and what reads it")
        axis.set(xlabel="L2 norm of the head's weights", ylabel="trigger-activation change")
