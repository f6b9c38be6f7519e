"""A dictionary transform for MONAI."""

from collections.abc import Hashable, Mapping
from typing import Any

from clicksim.adapters.affine import draw_on, like, to_numpy
from clicksim.errors import GeometryError
from clicksim.prompts import Prompts


class EncodePromptsd:
    """Draw `data[prompts]` on the grid of `data[image]`, as `data[guidance]`; use it after the spatial transforms.

    The image is a `MetaTensor`, or an array with its affine in `<image>_meta_dict`; channels come first. The prompts
    refer to the loaded file and do not change: the affine describes what the transforms did to its grid.

        Compose([LoadImaged("image"), EnsureChannelFirstd("image"), Orientationd("image", axcodes="RAS"),
                 RandFlipd("image", 0.5, 0), EncodePromptsd("image", encoding="edt-ball"),
                 ConcatItemsd(["image", "guidance"], "image")])

    Args:
        image: Key of the image; encodings that need an uptake read its last channel.
        prompts: Key of the prompts.
        guidance: Key of the result, `(2, I, J, K)`, of the same type as the image.
        **settings: Settings of `clicksim.encode`.

    Raises:
        KeyError: If a key is missing.
        GeometryError: If the image has no affine.
    """

    def __init__(self, image: str = "image", prompts: str = "prompts", guidance: str = "guidance", **settings: Any):
        self.image, self.prompts, self.guidance, self.settings = image, prompts, guidance, settings

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with the guidance added."""
        image, prompts = data[self.image], data[self.prompts]
        if not isinstance(prompts, Prompts):
            raise TypeError(f"{self.prompts!r} must hold clicksim.Prompts, got {type(prompts).__name__}")
        drawn = draw_on(prompts, to_numpy(image), self._affine(data), **self.settings)
        return {**data, self.guidance: like(drawn, image)}

    def _affine(self, data: Mapping[Hashable, Any]) -> Any:
        image = data[self.image]
        affine = getattr(image, "affine", None)
        if affine is None:
            affine = data.get(f"{self.image}_meta_dict", {}).get("affine")
        if affine is None:
            raise GeometryError(
                f"{self.image!r} carries no affine, so its prompts cannot follow it; load it as a MetaTensor, or give "
                f"{self.image}_meta_dict with one"
            )
        return to_numpy(affine)
