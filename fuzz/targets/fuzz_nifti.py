"""NIfTI images, `.nii`."""

from pathlib import Path
from typing import Any

from fuzz.targets.small_images import arrays, image_seeds, read_as_everything, small_phantom


def seeds() -> list[bytes]:
    """Label, CT, uptake; NIfTI-1 and NIfTI-2, both byte orders, scaled."""
    import nibabel

    images: Any = nibabel
    affine = small_phantom().grid.affine
    odd = []
    for kind in (images.Nifti1Image, images.Nifti2Image):
        image = kind(arrays()[1], affine)
        image.header.set_slope_inter(2.0, 1.0)
        odd.append(image.to_bytes())
    swapped = images.Nifti1Image(arrays()[0].astype(">i2"), affine, images.Nifti1Header(endianness=">"))
    return [*image_seeds(".nii"), *odd, swapped.to_bytes()]


def read(data: bytes, folder: Path) -> None:
    """Read it as image, label and header."""
    file = folder / "image.nii"
    file.write_bytes(data)
    read_as_everything(file)
