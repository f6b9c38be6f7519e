"""A transform in the style of TorchIO: a subject in, the subject with one more image out."""

from typing import Any

import numpy as np

from clicksim.adapters.affine import draw_on, like, to_numpy
from clicksim.prompts import Prompts


class EncodePrompts:
    """Draw `subject[prompts]` on the grid of `subject[image]`, and add the channels as the image `guidance`.

    Put it behind the spatial transforms: the prompts are those of the file, and the affine of the image says what has
    become of its grid. The new image is of the class of the old one, so that later transforms move it along.

        Compose([ToCanonical(), RandomFlip(), CropOrPad(128), EncodePrompts("pet", encoding="edt-ball")])

    Args:
        image: Name of the image, `(C, I, J, K)` with an RAS+ affine; its last channel is the uptake, for encodings that
            read one.
        prompts: Name under which the subject holds `clicksim.Prompts`.
        guidance: Name of the new image.
        **settings: Of `clicksim.encode`.
    """

    def __init__(self, image: str = "pet", prompts: str = "prompts", guidance: str = "guidance", **settings: Any):
        self.image, self.prompts, self.guidance, self.settings = image, prompts, guidance, settings

    def __call__(self, subject: Any) -> Any:
        """The same subject, with the guidance in it."""
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
