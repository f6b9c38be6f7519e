"""The model: physical values and prompts in, logits out.

Six channels go into a residual 3-D U-Net (MONAI's DynUNet):

    0 CT          HU, cut to `ct_window`, divided by `ct_scale`
    1 PET         log(1 + SUV), SUV cut to 0 .. `suv_limit`; 0 where there is none
    2 no PET      1 where there is none, else 0
    3 previous    the mask that is to be corrected; 0 where there is none
    4 foreground  prompts inside lesions, drawn by `clickseg.data.prompt_channels`
    5 background  prompts outside them

The rule of normalisation is fixed and knows no statistics of a data set, so that one model takes CT-only cases and
both tracers, and a checkpoint needs nothing beside it.

How to use a trained one:

    model, about = load_model("run/model.safetensors")            # clickseg.model.checkpoint
    grids = GridTransform.of(grid, about["rules"]["spacing_mm"])  # clickseg.data.model_grid
    points = torch.from_numpy(channel_rows(grids.prompts(prompts)))  # clickseg.data.prompt_channels
    guidance = model.guidance(points, 1, shape, spacing, pet)     # (1, 2, I, J, K)
    x = model.channels(ct, pet, guidance, previous=mask)          # (1, 6, I, J, K): cut windows from this
    probability = torch.sigmoid(model(x))                         # (1, 1, I, J, K)

`model.margin_vx(spacing)` says how far a prompt reaches, so that a caller can tell which windows it touches.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clickseg.data.prompt_channels import draw_channels, reach_vx
from clickseg.training_settings import ModelSettings
from clicksim.errors import SettingError
from clicksim.geometry import Shape, Spacing

CHANNELS = ("ct", "pet", "no_pet", "previous", "foreground", "background")
FILTERS = {
    "tiny": (8, 16, 32),
    "small": (16, 32, 64, 128),
    "medium": (32, 64, 128, 256, 320),
    "large": (32, 64, 128, 256, 320, 320),  # the stages of nnU-Net's full-resolution preset
}
SMALLEST = 4  # voxels that an axis keeps at the coarsest stage, so that instance norm has something to measure


class Segmenter(nn.Module):
    """A promptable segmenter of one kind of lesion.

    Attributes:
        settings: What it is.
        plan: How its prompts are drawn.
        network: `(B, 6, I, J, K)` to logits `(B, 1, I, J, K)`, or `(B, n, 1, I, J, K)` in training with deep
            supervision, the finest first.
    """

    def __init__(self, settings: ModelSettings) -> None:
        """A fresh network; its weights come from Torch's global generator."""
        super().__init__()
        self.settings = settings
        self.plan = settings.plan
        self.network = build_network(settings)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of channels from `channels`; see the class."""
        return self.network(x)

    def channels(
        self,
        ct: Tensor,
        pet: Tensor | None,
        guidance: Tensor,
        *,
        previous: Tensor | None = None,
        has_pet: Tensor | None = None,
    ) -> Tensor:
        """What the network takes.

        Args:
            ct: `(B, 1, I, J, K)` HU.
            pet: `(B, 1, I, J, K)` SUV; None where no sample has one.
            guidance: `(B, 2, I, J, K)`.
            previous: `(B, 1, I, J, K)`, 0 or 1; None for none.
            has_pet: `(B,)` bool, which samples have one; None for all.

        Returns:
            float32 `(B, 6, I, J, K)`.
        """
        s, one = self.settings, torch.ones_like(ct, dtype=torch.float32)
        density = ct.float().clamp(s.ct_window[0], s.ct_window[1]) / s.ct_scale
        if pet is None:
            uptake, missing = one * 0, one
        else:
            uptake, missing = torch.log1p(pet.float().clamp(0, s.suv_limit)), one * 0
            if has_pet is not None:
                shown = has_pet.view(-1, 1, 1, 1, 1).float()
                uptake, missing = uptake * shown, one - shown
        mask = one * 0 if previous is None else previous.float()
        return torch.cat([density, uptake, missing, mask, guidance], dim=1)

    def guidance(
        self,
        points: Tensor,
        batch: int,
        shape: Shape,
        spacing: Sequence[Spacing] | Spacing,
        pet: Tensor | None = None,
        has_pet: Tensor | None = None,
    ) -> Tensor:
        """Prompts as this model takes them, `(batch, 2, I, J, K)`; see `prompt_channels.draw_channels`.

        Encodings that read the image read the PET, `(batch, 1, I, J, K)` SUV; where there is none it is 0.
        """
        image = None
        if self.plan.needs_image and pet is not None:
            image = pet if has_pet is None else pet * has_pet.view(-1, 1, 1, 1, 1)
        return draw_channels(points, batch, shape, plan=self.plan, spacing=spacing, image=image)

    def weights(self) -> dict[str, Tensor]:
        """All weights by name, each once (the network reaches some by two paths), without gradient.

        They are the model's own: `copy_` into them changes it. The network has no other state.
        """
        return {name: weight.detach() for name, weight in self.named_parameters()}

    def margin_vx(self, spacing: Spacing) -> tuple[int, int, int]:
        """How many voxels along each axis a prompt reaches; see `prompt_channels.reach_vx`."""
        return reach_vx(self.plan, spacing)


def build_network(settings: ModelSettings) -> nn.Module:
    """The residual U-Net of a size, its last bias negative.

    Raises:
        SettingError: A patch that the network cannot halve as often as it must; more coarser outputs than it has.
    """
    from monai.networks.nets.dynunet import DynUNet

    steps = strides(settings)
    for axis, length in enumerate(settings.patch):
        factor = int(np.prod([step[axis] for step in steps]))
        if length % factor:
            raise SettingError(
                f"a {settings.size} network halves axis {axis} of the patch to a {factor}th: {length} must be a "
                f"multiple of it, such as {max(1, round(length / factor)) * factor}"
            )
    supervised, most = settings.deep_supervision, len(steps) - 2
    if supervised > most:
        raise SettingError(
            f"deep_supervision is {supervised}, but a {settings.size} network has at most {most} coarser outputs"
        )
    network = DynUNet(
        spatial_dims=3,
        in_channels=len(CHANNELS),
        out_channels=1,
        kernel_size=[3] * len(steps),
        strides=steps,
        upsample_kernel_size=steps[1:],
        filters=FILTERS[settings.size],
        norm_name=("INSTANCE", {"affine": True}),
        deep_supervision=supervised > 0,
        deep_supr_num=max(supervised, 1),
        res_block=True,
    )
    heads = [network.output_block, *(network.deep_supervision_heads if supervised else [])]
    for head in heads:
        nn.init.constant_(head.conv.conv.bias, settings.head_bias)
    return network


def strides(settings: ModelSettings) -> list[tuple[int, int, int]]:
    """By what each stage divides the axes: by 2, unless an axis would fall below 4 voxels.

    Raises:
        SettingError: A patch that has not three axes.
    """
    if len(settings.patch) != 3:
        raise SettingError(f"patch has three lengths, got {settings.patch}")
    left = list(settings.patch)
    out = [(1, 1, 1)]
    for _ in FILTERS[settings.size][1:]:
        step = [2 if length // 2 >= SMALLEST else 1 for length in left]
        left = [length // s for length, s in zip(left, step, strict=True)]
        out.append((step[0], step[1], step[2]))
    return out


def finest(logits: Tensor) -> Tensor:
    """`(B, 1, I, J, K)` of what `Segmenter` gives, with or without deep supervision."""
    return logits[:, 0] if logits.dim() == 6 else logits


def make_model(settings: ModelSettings, seed: int, device: Any = "cpu") -> Segmenter:
    """A fresh model whose weights depend on the seed alone; Torch's generators are left as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Segmenter(settings).to(device)
