"""Reading and writing compressed NIfTI, in CPU time, compared with nibabel, SimpleITK and the bare decompression."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK
from isal import igzip

from benchmarks.bench_data import phantom
from benchmarks.result_table import Section, at_most, faster
from benchmarks.timing import Time, measure
from clicksim.phantom import Phantom
from clicksim.volumes import read_image, read_label, write_image

TEXT = """CPU time; {voxels:.1f} million voxels, float32 PET and uint8 label, files in the page cache. "bare inflate"
only decompresses the same file into one small buffer, with isal; no reader that uses this library can be faster. All
readers gave equal voxels in this run."""
INFLATE = "bare inflate by isal"
BLOCK = 1 << 20


def run(*, full: bool, quick: bool) -> list[Section]:  # noqa: ARG001
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    made = phantom(1, quick=quick)
    rounds = 1 if quick else 3
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows += _write_rows("PET", made.pet, made, folder, rounds=1 if quick else 2)
        rows += _write_rows("label", made.label, made, folder, rounds=rounds)
        for writer in ("nibabel", "clicksim"):
            rows += _read_rows("PET", folder / f"PET_{writer}.nii.gz", read_image, writer, rounds, bar=1.7)
        rows += _read_rows("label", folder / "label_nibabel.nii.gz", read_label, "nibabel", rounds + 2, bar=None)
    return [Section("Files", TEXT.format(voxels=made.pet.size / 1e6), rows=rows)]


def _read_rows(
    kind: str, path: Path, read: Callable[[Path], Any], writer: str, rounds: int, *, bar: float | None
) -> list[list[str]]:
    works: dict[str, Callable[[], Any]] = {
        "clicksim": lambda: read(path).array,
        "nibabel `np.asanyarray(dataobj)`": lambda: np.asanyarray(_load(path).dataobj),
        "nibabel `get_fdata()`": lambda: _load(path).get_fdata(caching="unchanged"),
        "SimpleITK": lambda: SimpleITK.ReadImage(str(path)),
        INFLATE: lambda: _inflate(path),
    }
    ours = works["clicksim"]()
    for name in works:
        if name not in ("clicksim", INFLATE):
            np.testing.assert_array_equal(_as_array(works[name]()), ours)
    found = measure(works, rounds=rounds, warm_up=0, clock=time.process_time)
    work = f"read a {kind} written by {writer}"
    rows = []
    for name, theirs in found.items():
        if name == INFLATE:
            rows.append(at_most(work, found["clicksim"], name, theirs))
        elif name != "clicksim":
            goal = bar if name == "nibabel `np.asanyarray(dataobj)`" else None
            rows.append(faster(work, found["clicksim"], name, theirs, bar=goal))
    return rows


def _write_rows(kind: str, array: Any, made: Phantom, folder: Path, *, rounds: int) -> list[list[str]]:
    paths = {name: folder / f"{kind}_{name}.nii.gz" for name in ("clicksim", "nibabel", "SimpleITK")}
    image = SimpleITK.GetImageFromArray(array.T)
    works: dict[str, Callable[[], Any]] = {
        "clicksim": lambda: write_image(paths["clicksim"], array, made.grid),
        "nibabel": lambda: nibabel.save(nibabel.Nifti1Image(array, made.grid.affine), paths["nibabel"]),
        "SimpleITK": lambda: SimpleITK.WriteImage(image, str(paths["SimpleITK"]), True),
    }
    found: dict[str, Time] = measure(works, rounds=rounds, warm_up=0, clock=time.process_time)

    def named(name: str) -> str:
        return f"{name}, {paths[name].stat().st_size / 1e6:.3g} MB"

    size = f"{paths['clicksim'].stat().st_size / 1e6:.3g} MB"
    return [
        faster(f"write a {kind}, {size}", found["clicksim"], named(name), found[name])
        for name in ("nibabel", "SimpleITK")
    ]


def _load(path: Path) -> Any:
    return nibabel.load(path)


def _as_array(image: Any) -> Any:
    return SimpleITK.GetArrayFromImage(image).T if isinstance(image, SimpleITK.Image) else image


def _inflate(path: Path) -> None:
    """Decompress a file and forget it."""
    buffer = bytearray(BLOCK)
    with igzip.open(path, "rb") as stream:
        while stream.readinto(buffer):
            pass
