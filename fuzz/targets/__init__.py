"""The readers under test, one module each.

A module has a docstring whose first line says what is read, `seeds()`, inputs that the phantom writers make and that
the reader takes, and `read(data, folder)`, which writes the input to the empty folder and reads it. `unpack(data)` and
`pack(data)` stand where the input is compressed as a whole: mutations of packed bytes break its checksum and get no
further.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

NAMES = (
    "nifti",
    "nifti_gz",
    "mha",
    "prompts",
    "lesion_points",
    "lesion_csv",
    "longitudinal",
    "settings",
    "registration",
    "dicom_image",
    "dicom_seg",
    "dicom_rtstruct",
    "dicom_suv",
)


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        name: Of the module, and of the folder in `tests/regressions/`.
        title: What is read.
        seeds: Sound inputs, made anew.
        read: Reads an input; its second argument is an empty folder to write it to.
        unpack, pack: For inputs that are compressed as a whole.
    """

    name: str
    title: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[bytes, Path], object]
    unpack: Callable[[bytes], bytes] | None = None
    pack: Callable[[bytes], bytes] | None = None


def find_target(name: str) -> Target:
    """The target of a name in `NAMES`."""
    module = import_module(f"fuzz.targets.fuzz_{name}")
    title = (module.__doc__ or "").partition("\n")[0].rstrip(".")
    packing = (getattr(module, "unpack", None), getattr(module, "pack", None))
    return Target(name, title, module.seeds, module.read, *packing)
