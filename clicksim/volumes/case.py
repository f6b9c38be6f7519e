"""The images of a case: their files, and how they are read and checked."""

from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from clicksim.errors import ImageError, UptakeError, up_to_ten
from clicksim.geometry.arrays import flat_view
from clicksim.volumes.header import EXTENSIONS
from clicksim.volumes.image import Volume, case_id_of, read_image, read_label

SAMPLE = 1 << 14  # sample size in voxels; the volume is not scanned
NO_PET = -100  # SUV and Bq/ml have noise below 0; air and lung in a CT are far below this
CT_SHARE = 0.02  # share of voxels below NO_PET: a CT has about ten times that, a PET with ringing at edges far less


ROLES = ("label", "pet", "ct", "organs", "prediction")
"""The roles of the images of a case."""
NAMES = {"label": "label", "pet": "PET", "ct": "CT", "organs": "organ mask", "prediction": "prediction"}
"""Names of the roles in messages."""


class CaseImages:
    """The images of one case. Each is read once, on first use, and its grid is compared with that of the label.

    Attributes:
        case_id: The name of the case.
        files: Files by role; see `ROLES`.
    """

    def __init__(self, files: Mapping[str, Path | None], case_id: str = "") -> None:
        """Set the files of a case.

        Args:
            files: Files by role; missing or None means that the case has no such image.
            case_id: By default the label's file name without its extension.

        Raises:
            ImageError: If the case has no label.
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
        """The uptake, read and checked by `read_pet`; its warnings are in `notes`."""
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
        """The mask predicted by a model."""
        if "prediction" not in self.files:
            return None
        return self._on_grid(read_label(self.files["prediction"]), "prediction")

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings about the images read so far."""
        return tuple(note for notes in self._notes.values() for note in notes)

    def _on_grid(self, volume: Volume, role: str) -> Volume:
        """Check that an image is on the grid of the label, and return it.

        Raises:
            GeometryError: If it is on another grid.
        """
        self.label.grid.check_same(volume.grid, ("label", NAMES[role]), where=f"case {self.case_id}")
        return volume


def read_pet(path: str | Path) -> tuple[Volume, tuple[str, ...]]:
    """Read a PET. Also return a warning if it does not look like one.

    About ten thousand evenly spaced voxels are checked; the whole volume is checked only if all of them are 0 or 1.
    This detects a CT or a label in place of the PET. It does not prove that the values are SUV.

    Returns:
        The image, and at most one note: less than 2 % of the voxels are below -100, which resampling can cause in a
        PET in Bq/ml.

    Raises:
        UptakeError: If more voxels are below -100, as in a CT, or all values are 0 or 1 (of any type), as in a mask.
        ImageError: If the file cannot be read.
    """
    volume = read_image(path)
    flat, _ = flat_view(volume.array)
    sample = flat[:: max(1, flat.size // SAMPLE) | 1]  # odd, so that the sample does not follow the columns of the grid
    if all(np.isin(part, (0, 1)).all() for part in (sample, flat)) and flat.any() and not flat.all():
        raise UptakeError(f"{path} contains only 0 and 1: is this a label? A PET holds SUV")
    share = float(np.mean(sample < NO_PET))
    if share == 0:
        return volume, ()
    found = f"{path} has values down to {float(np.nanmin(sample)):.0f}: is this a CT?"
    if share > CT_SHARE:
        raise UptakeError(f"{found} A PET holds SUV")
    return volume, (f"{found} It was taken for a PET",)


def list_labels(folder: str | Path) -> list[Path]:
    """List the image files of a folder by name, without hidden files such as `._x.nii.gz`.

    Raises:
        ImageError: If the folder cannot be read or has no image, or two files belong to one case.
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
    """Find the image of a case in another folder: `<case>_0001`, as nnU-Net names the PET, or the name of the label.

    Raises:
        ImageError: If neither exists.
    """
    name = case_id_of(label)
    stems = dict.fromkeys([f"{name}{channel}", name])
    candidates = [Path(folder) / f"{stem}{ending}" for stem in stems for ending in EXTENSIONS]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise ImageError(f"no image of case {name} in {folder}, such as {candidates[0].name}")
