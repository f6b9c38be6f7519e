"""A transform for TorchIO: it adds an image to a subject."""

from typing import Any

import numpy as np

from clicksim.adapters.affine import draw_on, like, to_numpy
from clicksim.prompts import Prompts


class EncodePrompts:
    """Draw `subject[prompts]` on the grid of `subject[image]`, and add the channels as the image `guidance`.

    Use it after the spatial transforms: the prompts refer to the file, and the affine of the image describes what the
    transforms did to its grid. The new image has the class of the old one, so later transforms also apply to it.

        Compose([ToCanonical(), RandomFlip(), CropOrPad(128), EncodePrompts("pet", encoding="edt-ball")])

    Args:
        image: Name of the image, `(C, I, J, K)` with an RAS+ affine; encodings that need an uptake read its last
            channel.
        prompts: Name under which the subject holds `clicksim.Prompts`.
        guidance: Name of the new image.
        **settings: Settings of `clicksim.encode`.
    """

    def __init__(self, image: str = "pet", prompts: str = "prompts", guidance: str = "guidance", **settings: Any):
        self.image, self.prompts, self.guidance, self.settings = image, prompts, guidance, settings

    def __call__(self, subject: Any) -> Any:
        """Return the subject with the guidance added."""
        image, prompts = subject[self.image], subject[self.prompts]
        if not isinstance(prompts, Prompts):
            raise TypeError(f"{self.prompts!r} must hold clicksim.Prompts, got {type(prompts).__name__}")
        affine = np.asarray(image.affine, dtype=np.float64)
        drawn = like(draw_on(prompts, to_numpy(image.data), affine, **self.settings), image.data)
        added = type(image)(tensor=drawn, affine=affine)
        if hasattr(subject, "add_image"):
            subject.add_image(added, self.guidance)
        else:
            subject[self.guidance] = added
        return subject
