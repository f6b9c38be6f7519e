"""Dice and cross-entropy, defined for patches without a lesion.

The soft Dice is taken over the whole batch of a device, not over each patch, so that a patch without a lesion counts
by its false positives; and both its terms get one voxel (`SMOOTH`), so that a batch without any lesion has a Dice
loss that falls to 0 as the prediction empties, with a finite gradient all the way. Cross-entropy is the mean over
voxels. The two are added.
"""

from collections.abc import Callable

import torch
from torch import Tensor

SMOOTH = 1.0  # voxels


def make_loss() -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of logits `(B, 1, I, J, K)`, or `(B, n, 1, I, J, K)` with deep supervision, against a label.

    Coarser outputs count half as much each as the one before; weights add up to 1.
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
    """`(B,)` overlap of masks `(B, 1, I, J, K)`; 1 where both are empty."""
    one, two = prediction.bool(), label.bool()
    axes = (1, 2, 3, 4)
    total = one.sum(axes) + two.sum(axes)
    return torch.where(
        total > 0, 2.0 * (one & two).sum(axes) / total.clamp(min=1), torch.ones_like(total, dtype=torch.float32)
    )
