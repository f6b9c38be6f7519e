"""The images of a case: which files there are, and the one way to read and check them."""

from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from clicksim.errors import ImageError, UptakeError, up_to_ten
from clicksim.geometry.arrays import flat_view
from clicksim.volumes.header import EXTENSIONS
from clicksim.volumes.image import Volume, case_id_of, read_image, read_label

SAMPLE = 1 << 14  # voxels that are looked at: a look, not a pass
NO_PET = -100  # SUV and Bq/ml have noise below 0; air and lung of a CT lie far below this
CT_SHARE = 0.02  # of the voxels below NO_PET: a CT has some ten times that, ringing at the edges of a PET far less


ROLES = ("label", "pet", "ct", "organs", "prediction")
"""What the images of a case are."""
NAMES = {"label": "label", "pet": "PET", "ct": "CT", "organs": "organ mask", "prediction": "prediction"}
"""How messages call them."""


class CaseImages:
    """The images of one case, each read when it is first asked for, once, and compared with the grid of the label.

    Attributes:
        case_id: The name of the case.
        files: Its files by role; see `ROLES`.
    """

    def __init__(self, files: Mapping[str, Path | None], case_id: str = "") -> None:
        """Name the images of a case.

        Args:
            files: By role; what is absent or None is not there.
            case_id: By default the label's file name without its ending.

        Raises:
            ImageError: The case has no label.
        """
        self.files = {role: file for role, file in files.items() if file is not None}
        if "label" not in self.files:
            raise ImageError(f"case {case_id} has no label")
        self.case_id = case_id or case_id_of(self.files["label"])
        self._notes: dict[str, tuple[str, ...]] = {}

    @cached_property
    def label(self) -> Volume:
        """The lesion mask or instance map."""
        return read_label(self.files["label"])

    @cached_property
    def pet(self) -> Volume | None:
        """The uptake, which is looked at as `read_pet` does; its doubts are among `notes`."""
        if "pet" not in self.files:
            return None
        volume, self._notes["pet"] = read_pet(self.files["pet"])
        return self._on_grid(volume, "pet")

    @cached_property
    def ct(self) -> Volume | None:
        """The CT."""
        return self._on_grid(read_image(self.files["ct"]), "ct") if "ct" in self.files else None

    @cached_property
    def organs(self) -> Volume | None:
        """The organ labels."""
        return self._on_grid(read_label(self.files["organs"]), "organs") if "organs" in self.files else None

    @cached_property
    def prediction(self) -> Volume | None:
        """The mask that a model predicted."""
        if "prediction" not in self.files:
            return None
        return self._on_grid(read_label(self.files["prediction"]), "prediction")

    @property
    def notes(self) -> tuple[str, ...]:
        """Doubts about the images that were read so far, a sentence each."""
        return tuple(note for notes in self._notes.values() for note in notes)

    def _on_grid(self, volume: Volume, role: str) -> Volume:
        """The image, which must be on the grid of the label.

        Raises:
            GeometryError: It is on another grid.
        """
        self.label.grid.check_same(volume.grid, ("label", NAMES[role]), where=f"case {self.case_id}")
        return volume


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
