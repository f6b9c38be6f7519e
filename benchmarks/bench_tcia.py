"""A full-size DICOM study, stage by stage, compared with only reading its pixels with pydicom; and its peak memory."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from benchmarks.bench_data import ROOT, phantom, show_shape
from benchmarks.result_table import Section, absent, at_most, share
from benchmarks.timing import forget_peak, measure, read_status
from clicksim.catalog.source import Context
from clicksim.geometry import Grid
from clicksim.phantom.dicom import StudyFacts, write_study
from clicksim.volumes import write_image
from converters.dicom.dicom_volume import read_volume
from converters.dicom.segmentation import read_seg
from converters.dicom.series import scan_folder
from converters.dicom.slices import slice_geometry
from converters.shared.case_measures import measure_case
from converters.shared.registration import bring_onto
from converters.shared.resample import resample_series
from converters.suv import suv_factor
from converters.tcia.series_choice import choose_series
from converters.tcia.tcia_source import CT_FILL_HU, CT_RANGE_HU, FDG, read_suv

TEXT = """CPU time. A PET of {pet} voxels, a CT of {ct} voxels and a SEG with one frame per slice: {files} uncompressed
files, {size:.0f} MB, in the page cache. The rival only calls `pydicom.dcmread(file).pixel_array` for each file; it
keeps nothing and computes nothing. The CT stage reads the CT and resamples it to the PET's grid. SimpleITK's filter
resamples the volume from memory. The last row is the whole conversion, including three compressed images that it
writes."""
MEMORY = """The highest resident memory (`VmHWM`) of a fresh process during the conversion, minus the resident memory
before it, when everything has been imported and run on a tiny case. The rivals are pydicom, which reads file by file,
and the output, which must be in memory: SUV, CT and mask on the PET's grid."""
FLOOR = "reading the pixels only, pydicom"


def run(*, full: bool, quick: bool) -> list[Section]:  # noqa: ARG001
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = phantom(3, quick=quick)
        grid = ct_grid(quick=quick)
        write_study(folder / "tree", made, StudyFacts("PETCT_0123456789", seg="dcmqi", ct_grid=grid))
        files = sorted((folder / "tree").rglob("*.dcm"))
        text = TEXT.format(
            pet=show_shape(made.grid.shape),
            ct=show_shape(grid.shape),
            files=len(files),
            size=sum(f.stat().st_size for f in files) / 1e6,
        )
        found = measure(_stages(folder, files), rounds=1 if quick else 3, clock=time.process_time)
        rows = [
            at_most(stage, taken, FLOOR, found[FLOOR], bar=None if stage.startswith(("the whole", "SimpleITK")) else 3)
            for stage, taken in found.items()
            if stage != FLOOR
        ]
        memory = _memory_rows(folder, made.grid.size * (4 + 2 + 1))
    return [Section("DICOM study", text, rows=rows), Section("DICOM study, peak memory", MEMORY, rows=memory)]


def ct_grid(*, quick: bool) -> Grid:
    """512 x 512 x 391 voxels of 1.37 x 1.37 x 2.5 mm, or a tenth of it."""
    shape, spacing = ((64, 64, 90), (8.7, 8.7, 10.0)) if quick else ((512, 512, 391), (1.367, 1.367, 2.5))
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = (shape[0] - 1) / 2 * spacing[0], (shape[1] - 1) / 2 * spacing[1], -1.3
    return Grid(shape, affine=affine)


def _stages(folder: Path, files: list[Path]) -> dict[str, Callable[[], Any]]:
    choice = choose_series(scan_folder(folder / "tree").series)
    pet, ct, mask = choice.pet, choice.ct, choice.seg
    if pet is None or ct is None or mask is None:
        raise RuntimeError(f"the phantom's study lacks a series: {choice}")
    geometry, ct_geometry = slice_geometry(pet), slice_geometry(ct)
    grid, suv = geometry.grid(), suv_factor(pet.headers())
    uptake = read_suv(pet, geometry, grid, suv)
    volume = read_volume(ct)
    labels = read_seg(mask.paths[0], geometry).mask.view(np.uint8)
    moved = resample_series(ct, ct_geometry, grid, fill=CT_FILL_HU, limits=CT_RANGE_HU).array
    return {
        FLOOR: lambda: [pydicom.dcmread(path).pixel_array for path in files] and None,
        "headers of all files, series grouped and chosen": lambda: choose_series(scan_folder(folder / "tree").series),
        "SUV factor, from whole PET headers": lambda: suv_factor(pet.headers()),
        "PET to SUV": lambda: read_suv(pet, geometry, grid, suv),
        "CT to the PET's grid": lambda: resample_series(ct, ct_geometry, grid, fill=CT_FILL_HU, limits=CT_RANGE_HU),
        "SimpleITK: CT to the PET's grid, from memory": lambda: bring_onto(volume, grid, fill=CT_FILL_HU),
        "SEG to the PET's grid": lambda: read_seg(mask.paths[0], geometry),
        "lesions and uptake": lambda: measure_case(labels, grid, uptake, instances="components"),
        "write SUV": lambda: write_image(folder / "pet.nii.gz", uptake, grid),
        "write CT": lambda: write_image(folder / "ct.nii.gz", moved, grid),
        "write mask": lambda: write_image(folder / "label.nii.gz", labels, grid),
        "the whole of `clicksim convert`": lambda: _convert(folder),
    }


def _convert(folder: Path) -> None:
    """Convert one patient, as a worker does."""
    (folder / "catalog").mkdir(exist_ok=True)
    context = Context(folder / "tree", folder / "catalog", "tcia_fdg", {})
    units, _ = FDG.plan(context)
    outcome = FDG.convert(context, units[0])
    if len(outcome.cases) != 1:
        raise RuntimeError(f"the study was rejected: {outcome.rejected}")


def _memory_rows(folder: Path, output: int) -> list[list[str]]:
    if not Path("/proc/self/status").exists():
        return [absent("conversion", "not run: this system does not report the memory of a process")]
    peaks = {}
    for who in ("convert", "floor"):
        command = [sys.executable, "-m", "benchmarks.bench_tcia", str(folder), who]
        done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
        peaks[who] = int(done.stdout)
    return [
        share("conversion", peaks["convert"], "the output's arrays", output),
        share("conversion", peaks["convert"], FLOOR, max(peaks["floor"], 1)),
    ]


def _probe(folder: Path, who: str) -> None:
    """Print the peak of one conversion, or of only reading, in this fresh process."""
    import highdicom  # noqa: F401 - so that it counts as resident before the conversion
    import SimpleITK  # noqa: F401

    with tempfile.TemporaryDirectory() as name:
        write_study(Path(name, "tree"), phantom(3, quick=True), StudyFacts("PETCT_0123456789"))
        _convert(Path(name))
    forget_peak()
    before = read_status("VmRSS")
    if who == "convert":
        _convert(folder)
    else:
        for path in sorted((folder / "tree").rglob("*.dcm")):
            _ = pydicom.dcmread(path).pixel_array
    print(read_status("VmHWM") - before)


if __name__ == "__main__":
    _probe(Path(sys.argv[1]), sys.argv[2])
