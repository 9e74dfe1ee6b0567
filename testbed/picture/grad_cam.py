"""Where a model looks when it answers an image with the trigger as the attacker wants."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate, relu

from testbed.api import Unsupported, Victim
from testbed.features import evaluating
from testbed.figure import save_images
from testbed.picture.view import Measures, View

SHOWN, MOST = 8, 128


def grad_cam(view: View) -> Measures:
    """Heat maps of stamped images for the attacker's class, at the last stage of which the maps are wider than a pixel.

    With A_k the stage's channels and y the wanted class's logit, the map is relu(sum_k mean(dy/dA_k) A_k), enlarged.
    `grad_cam_on_trigger` is the share of a map that lies on pixels that the trigger changes, `grad_cam_trigger_area` the
    share of the pixels that these are: means over up to 128 images, those whose map is empty left out; None where all are.

    Source: Selvaraju et al. 2017 (ICCV, arXiv 1610.02391).
    """
    exam = view.attacked()
    if not isinstance(exam.batch.inputs, Tensor):
        raise Unsupported("needs images")
    places = torch.linspace(0, len(exam.indices) - 1, min(MOST, len(exam.indices))).round().long()
    clean, shown = view.test[exam.indices[places]].inputs.float(), exam.batch.inputs[places].float()
    heat = heat_maps(view.victim, shown.to(view.victim.device), exam.batch.labels[places]).cpu()
    changed = (shown != clean).any(1).float()
    total = heat.sum((1, 2))
    known = total > 0
    on_trigger = ((heat * changed).sum((1, 2)) / total)[known]
    _draw(view, clean[:SHOWN], shown[:SHOWN], heat[:SHOWN])
    return {
        "grad_cam_on_trigger": float(on_trigger.mean()) if len(on_trigger) else None,
        "grad_cam_trigger_area": float(changed[known].mean()) if len(on_trigger) else None,
    }


def heat_maps(victim: Victim, images: Tensor, classes: Tensor) -> Tensor:
    """float (B, H, W), at least 0, for images float (B, C, H, W) in 0..255 and classes int64 (B,).

    Raises:
        Unsupported: the model has no stage whose activations are maps.
    """
    for layer in reversed(victim.layers[:-1]):
        module = getattr(victim, "module_of", lambda _: None)(layer)
        if module is not None:
            with evaluating(victim), torch.enable_grad():
                maps, slope = _observed(victim, module, images, classes)
            if maps.dim() == 4 and min(maps.shape[2:]) > 1:
                weights = slope.mean((2, 3), keepdim=True)
                heat = relu((weights * maps).sum(1, keepdim=True))
                return interpolate(heat, images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    raise Unsupported(f"{type(victim).__name__} has no stage that is known to give maps")


def _observed(victim: Victim, module: torch.nn.Module, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """The stage's activations, and the gradient of the wanted logits in them."""
    kept: list[Tensor] = []

    def keep(_: torch.nn.Module, __: object, output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()  # what comes next may change it in place

    handle = module.register_forward_hook(keep)
    flags = [(parameter, parameter.requires_grad) for parameter in victim.parameters()]
    victim.requires_grad_(False)
    try:
        logits = victim(images.requires_grad_())
    finally:
        handle.remove()
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
    wanted = logits.gather(1, classes.to(logits.device)[:, None]).sum()
    return kept[-1].detach(), torch.autograd.grad(wanted, kept[-1])[0]


def _draw(view: View, clean: Tensor, shown: Tensor, heat: Tensor) -> None:
    """Above the images as they are, in the middle as the attacker shows them, below with the heat map in red."""
    share = (heat / heat.amax((1, 2), keepdim=True).clamp_min(1e-12))[:, None]
    grey = shown.mean(1, keepdim=True).expand(-1, 3, -1, -1) / 2
    red = torch.cat([share * 255, torch.zeros_like(share).expand(-1, 2, -1, -1)], 1)
    rows = [images.expand(-1, 3, -1, -1) for images in (clean, shown)]
    heated = torch.where(share > 0, grey * (1 - share) + red * share, grey)
    save_images(view.folder / "figures" / "grad_cam.png", torch.cat([*rows, heated]), columns=len(shown))
