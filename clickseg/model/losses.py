"""Dice and cross-entropy, defined for patches without a lesion.

The soft Dice is computed over the whole batch of a device, not over each patch, so a patch without a lesion counts by
its false positives. One voxel (`SMOOTH`) is added to numerator and denominator. So the Dice loss of a batch without any
lesion falls to 0 as the prediction becomes empty, and its gradient stays finite. Cross-entropy is the mean over voxels.
The loss is the sum of the two.
"""

from collections.abc import Callable

import torch
from torch import Tensor

SMOOTH = 1.0  # voxels


def make_loss() -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss of logits `(B, 1, I, J, K)`, or `(B, n, 1, I, J, K)` with deep supervision, against a label.

    Each coarser output has half the weight of the one before; the weights sum to 1.
    """
    from monai.losses.dice import DiceCELoss

    single = DiceCELoss(sigmoid=True, batch=True, smooth_nr=SMOOTH, smooth_dr=SMOOTH)

    def loss(logits: Tensor, label: Tensor) -> Tensor:
        truth = label.float()
        if logits.dim() == 5:
            return single(logits.float(), truth)
        weights = [0.5**n for n in range(logits.shape[1])]
        parts = [weight * single(logits[:, n].float(), truth) for n, weight in enumerate(weights)]
        return torch.stack(parts).sum() / sum(weights)

    return loss


def dice(prediction: Tensor, label: Tensor) -> Tensor:
    """Return the `(B,)` Dice of masks `(B, 1, I, J, K)`; 1 if both are empty."""
    one, two = prediction.bool(), label.bool()
    axes = (1, 2, 3, 4)
    total = one.sum(axes) + two.sum(axes)
    return torch.where(
        total > 0, 2.0 * (one & two).sum(axes) / total.clamp(min=1), torch.ones_like(total, dtype=torch.float32)
    )
