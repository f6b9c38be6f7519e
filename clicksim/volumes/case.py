"""The image files of a case: which there are, and a PET that is checked as it is read."""

from collections import Counter
from pathlib import Path

import numpy as np

from clicksim.errors import ImageError, UptakeError, up_to_ten
from clicksim.geometry.arrays import flat_view
from clicksim.volumes.header import EXTENSIONS
from clicksim.volumes.image import Volume, case_id_of, read_image

SAMPLE = 1 << 14  # voxels that are looked at: a look, not a pass
NO_PET = -100  # SUV and Bq/ml have noise below 0; air and lung of a CT lie far below this
CT_SHARE = 0.02  # of the voxels below NO_PET: a CT has some ten times that, ringing at the edges of a PET far less


def read_pet(path: str | Path) -> tuple[Volume, tuple[str, ...]]:
    """A PET from its file, and a sentence where it may be none.

    Some ten thousand voxels, evenly spread, are looked at; only where all of them are 0 or 1 is the volume read to
    the end. That is enough for a CT or a label in the place of the PET, and no proof of an SUV.

    Returns:
        The image, and at most one note: values below -100 in less than a fiftieth of the voxels, as resampling may
        leave them in a PET in Bq/ml.

    Raises:
        UptakeError: More than that lies below -100, as in a CT; 0 and 1 alone, of whatever type, as in a mask.
        ImageError: A file that cannot be read.
    """
    volume = read_image(path)
    flat, _ = flat_view(volume.array)
    sample = flat[:: max(1, flat.size // SAMPLE) | 1]  # odd, so that it does not keep to the columns of a grid
    if all(np.isin(part, (0, 1)).all() for part in (sample, flat)) and flat.any() and not flat.all():
        raise UptakeError(f"{path} has the numbers 0 and 1 alone: is this a label? A PET holds SUV")
    share = float(np.mean(sample < NO_PET))
    if share == 0:
        return volume, ()
    found = f"{path} has values down to {float(np.nanmin(sample)):.0f}: is this a CT?"
    if share > CT_SHARE:
        raise UptakeError(f"{found} A PET holds SUV")
    return volume, (f"{found} It was taken for a PET",)


def list_labels(folder: str | Path) -> list[Path]:
    """The image files of a folder, by name; hidden files, such as `._x.nii.gz`, are no labels.

    Raises:
        ImageError: The folder cannot be read or has no image, or two files are of one case.
    """
    try:
        paths = sorted(Path(folder).iterdir())
    except OSError as error:
        raise ImageError(f"cannot list the labels: {error.strerror} ({folder})") from error
    found = [path for path in paths if path.name.endswith(EXTENSIONS) and path.name[0] != "." and path.is_file()]
    if not found:
        raise ImageError(f"no label in {folder}: no file there ends in {', '.join(EXTENSIONS)}")
    counts = Counter(map(case_id_of, found))
    twice = [path.name for path in found if counts[case_id_of(path)] > 1]
    if twice:
        raise ImageError(f"several labels of one case in {folder}: {up_to_ten(twice)}; keep one of each")
    return found


def find_companion(label: Path, folder: str | Path, channel: str = "_0001") -> Path:
    """The image of a case in another folder: `<case>_0001` as nnU-Net names the PET, or the label's own name.

    Raises:
        ImageError: Neither is there.
    """
    name = case_id_of(label)
    stems = dict.fromkeys([f"{name}{channel}", name])
    candidates = [Path(folder) / f"{stem}{ending}" for stem in stems for ending in EXTENSIONS]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise ImageError(f"no image of case {name} in {folder}, such as {candidates[0].name}")
