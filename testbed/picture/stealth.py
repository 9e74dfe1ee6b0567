"""How visible a trigger is: the difference between images as they are and as the attacker shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from testbed.api import Unsupported
from testbed.figure import plot
from testbed.picture.view import Measures, View

MOST = 256
LPIPS_WEIGHTS = "alexnet-owt-7be5be79.pth"
LEAST_SIDE = 64
"""AlexNet needs so many pixels; smaller images are enlarged."""


def stealth(view: View) -> Measures:
    """Mean SSIM, PSNR in dB and largest change in grey levels, of the trigger as tests show it and as training rows bear it.

    SSIM is in -1..1, 1 where nothing is seen, over uniform windows of 11 pixels or as many as fit; PSNR is of the images that
    changed, None where none did. LPIPS (AlexNet) is there
    only where torchvision's weights lie in PyTorch's own cache: nothing is downloaded for it. `poison_` are training rows.

    Sources: Wang et al. 2004 (IEEE TIP) for SSIM; Zhang et al. 2018 (CVPR, arXiv 1801.03924) for LPIPS.
    """
    exam = view.attacked()
    if not isinstance(exam.batch.inputs, Tensor):
        raise Unsupported("needs images")
    found = _compared("stealth", view.test[exam.indices[:MOST]].inputs, exam.batch.inputs[:MOST])
    replaced = view.poison.indices < len(view.clean)
    places = replaced.nonzero().flatten()[:MOST]
    if len(places):
        before, after = view.clean[view.poison.indices[places]].inputs, view.poison.batch.inputs[places]
        found |= _compared("poison_stealth", before, after)
        _draw(view, before, after)
    return found


def _compared(prefix: str, clean: Tensor, shown: Tensor) -> Measures:
    from torchmetrics.functional.image import peak_signal_noise_ratio as psnr
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    clean, shown = clean.float(), shown.float()
    side = min(11, min(clean.shape[2:]) - 1 | 1)  # the window must be odd and fit
    changed = (clean != shown).flatten(1).any(1)
    alike = ssim(shown, clean, data_range=255.0, gaussian_kernel=False, kernel_size=side, reduction="none")
    told: Measures = {"ssim": float(alike.mean()), "psnr": None, "largest_change": float((shown - clean).abs().max())}
    if changed.any():
        pair = shown[changed], clean[changed]
        told["psnr"] = float(psnr(*pair, data_range=255.0, dim=(1, 2, 3), reduction="elementwise_mean"))
    network = perceptual_network()
    if network is not None:
        told["lpips"] = _distance(network, shown, clean)
    return {f"{prefix}_{name}": value for name, value in told.items()}


def perceptual_network() -> Any:
    """LPIPS, where AlexNet's weights are at hand; None otherwise."""
    if not (Path(torch.hub.get_dir()) / "checkpoints" / LPIPS_WEIGHTS).is_file():
        return None
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)


@torch.no_grad()
def _distance(network: Any, shown: Tensor, clean: Tensor) -> float:
    scale = max(1.0, LEAST_SIDE / min(clean.shape[2:]))
    images = [(part / 255).expand(-1, 3, -1, -1) for part in (shown, clean)]
    enlarged = [torch.nn.functional.interpolate(part, scale_factor=scale, mode="bilinear") for part in images]
    return float(network(*enlarged))


def _draw(view: View, before: Tensor, after: Tensor) -> None:
    """How large the changes of poisoned training pixels are."""
    change = (after.float() - before.float()).abs().flatten().round()
    with plot(view.folder / "figures" / "stealth.png", (6.0, 4.2)) as (_, axis):
        axis.hist(change.numpy(), bins=torch.linspace(-0.5, 255.5, 65).tolist(), color="tab:red", alpha=0.8)
        axis.set(title=f"{len(before)} poisoned training rows: how much their pixels change", yscale="log")
        axis.set(xlabel="grey levels", ylabel="pixels (log scale)")
