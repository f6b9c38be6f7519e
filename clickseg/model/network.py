"""The model: physical values and prompts in, logits out.

Six channels go into a residual 3-D U-Net (MONAI's DynUNet):

    0 CT          HU, cut to `ct_window`, divided by `ct_scale`
    1 PET         log(1 + SUV), SUV cut to 0 .. `suv_limit`; 0 without a PET
    2 no PET      1 without a PET, else 0
    3 previous    the mask to correct; 0 without one
    4 foreground  prompts inside lesions, drawn by `clickseg.data.prompt_channels`
    5 background  prompts outside them

The normalisation is fixed and uses no statistics of a data set, so that one model takes CT-only cases and both tracers,
and a checkpoint needs no other file.

How to use a trained model:

    model, about = load_model("run/model.safetensors")            # clickseg.model.checkpoint
    grids = GridTransform.of(grid, about["rules"]["spacing_mm"])  # clickseg.data.model_grid
    points = torch.from_numpy(channel_rows(grids.prompts(prompts)))  # clickseg.data.prompt_channels
    guidance = model.guidance(points, 1, shape, spacing, pet)     # (1, 2, I, J, K)
    x = model.channels(ct, pet, guidance, previous=mask)          # (1, 6, I, J, K): cut windows from this
    probability = torch.sigmoid(model(x))                         # (1, 1, I, J, K)

`model.margin_vx(spacing)` is the reach of a prompt; with it a caller can find the windows that the prompt changes.
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
SMALLEST = 4  # smallest axis in voxels at the coarsest stage, so that instance norm has values to average


class Segmenter(nn.Module):
    """A promptable segmenter of one kind of lesion.

    Attributes:
        settings: Its settings.
        plan: The encoding of its prompts.
        network: Maps `(B, 6, I, J, K)` to logits `(B, 1, I, J, K)`; in training with deep supervision to
            `(B, n, 1, I, J, K)`, the finest first.
    """

    def __init__(self, settings: ModelSettings) -> None:
        """Make a new network; its weights come from Torch's global generator."""
        super().__init__()
        self.settings = settings
        self.plan = settings.plan
        self.network = build_network(settings)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits for the output of `channels`; see the class."""
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
        """Make the input channels of the network.

        Args:
            ct: `(B, 1, I, J, K)` HU.
            pet: `(B, 1, I, J, K)` SUV; None if no sample has a PET.
            guidance: `(B, 2, I, J, K)`.
            previous: `(B, 1, I, J, K)`, 0 or 1; None without a previous mask.
            has_pet: `(B,)` bool, which samples have a PET; None for all.

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
        """Draw prompts for this model, `(batch, 2, I, J, K)`; see `prompt_channels.draw_channels`.

        Encodings that read the image read the PET, `(batch, 1, I, J, K)` SUV; without a PET it is 0.
        """
        image = None
        if self.plan.needs_image and pet is not None:
            image = pet if has_pet is None else pet * has_pet.view(-1, 1, 1, 1, 1)
        return draw_channels(points, batch, shape, plan=self.plan, spacing=spacing, image=image)

    def weights(self) -> dict[str, Tensor]:
        """Return all weights by name, each once (the network holds some under two names), without gradient.

        They are not copies: `copy_` into them changes the model. The network has no other state.
        """
        return {name: weight.detach() for name, weight in self.named_parameters()}

    def margin_vx(self, spacing: Spacing) -> tuple[int, int, int]:
        """Return how far a prompt reaches along each axis, in voxels; see `prompt_channels.reach_vx`."""
        return reach_vx(self.plan, spacing)


def build_network(settings: ModelSettings) -> nn.Module:
    """Build the residual U-Net of a size, with a negative last bias.

    Raises:
        SettingError: The patch cannot be halved often enough, or more coarser outputs are wanted than there are.
    """
    from monai.networks.nets.dynunet import DynUNet

    steps = strides(settings)
    for axis, length in enumerate(settings.patch):
        factor = int(np.prod([step[axis] for step in steps]))
        if length % factor:
            raise SettingError(
                f"a {settings.size} network divides axis {axis} of the patch by {factor}: {length} must be a "
                f"multiple of that, such as {max(1, round(length / factor)) * factor}"
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
    """Return the stride of each stage: 2 along each axis, unless the axis would fall below 4 voxels.

    Raises:
        SettingError: The patch does not have three axes.
    """
    if len(settings.patch) != 3:
        raise SettingError(f"patch must have three lengths, got {settings.patch}")
    left = list(settings.patch)
    out = [(1, 1, 1)]
    for _ in FILTERS[settings.size][1:]:
        step = [2 if length // 2 >= SMALLEST else 1 for length in left]
        left = [length // s for length, s in zip(left, step, strict=True)]
        out.append((step[0], step[1], step[2]))
    return out


def finest(logits: Tensor) -> Tensor:
    """Return the finest output of `Segmenter`, `(B, 1, I, J, K)`, with or without deep supervision."""
    return logits[:, 0] if logits.dim() == 6 else logits


def make_model(settings: ModelSettings, seed: int, device: Any = "cpu") -> Segmenter:
    """Make a new model whose weights depend only on the seed; Torch's generators do not change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Segmenter(settings).to(device)
