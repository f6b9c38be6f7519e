"""What the image targets share: small pieces of a phantom, and all that is done to an image file."""

import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import ClicksimError
from clicksim.geometry import Grid
from clicksim.phantom import Phantom, make_phantom
from clicksim.volumes import read_grid, read_image, write_image
from converters.shared.nifti_images import header_facts, read_labels


@cache
def small_phantom() -> Phantom:
    """A whole body on few voxels, with a lesion."""
    return make_phantom(shape=(12, 10, 8), spacing=(40, 40, 240), n_lesions=1)


def arrays() -> list[NDArray[Any]]:
    """Pieces of the phantom in the types that sources store."""
    phantom = small_phantom()
    piece = (slice(3, 9), slice(2, 7), slice(2, 6))
    label = phantom.label[piece]
    return [label, phantom.ct[piece], phantom.pet[piece], label.astype(np.float64), phantom.organs[piece] * 200.0]


def image_seeds(ending: str) -> list[bytes]:
    """The pieces as files."""
    affine = np.array(small_phantom().grid.affine)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"image{ending}"
        made = []
        for array in arrays():
            write_image(file, array, Grid(array.shape, affine=affine))
            made.append(file.read_bytes())
        return made


def read_as_everything(file: Path) -> None:
    """Header, voxels, the facts that converters take from a header; and labels, which most images are not."""
    grid = read_grid(file)
    volume = read_image(file)
    assert volume.grid == grid
    assert volume.array.shape == grid.shape
    header_facts(file, grid)
    with suppress(ClicksimError):
        read_labels(file, file.parent, highest=255, usual_axes="LAS")
