"""`python -m studies.planning`: the space and hours that each source needs; writes docs/planning.md.

One phantom patient of each source, with the voxel size of the source, goes through `clicksim convert`,
`clicksim clicks` and `clickseg prepare` in this process. The measured rates, multiplied by the published numbers of
cases and voxels, give estimates for the whole source.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bench_data import ROOT
from benchmarks.result_table import Section, machine
from clicksim.catalog import find_source, open_catalog
from clicksim.phantom import layouts
from clicksim.phantom.phantom_trees import SMALL_SHAPE, SMALL_SPACING
from clicksim.pipeline import PromptRun, convert, simulate_catalog

PAGE = ROOT / "docs" / "planning.md"
CORES = 8
DISK = 200e6
"""Bytes per second of an ordinary disk or a shared folder."""
ZIP_BYTES = 150_293_961_309
"""The size of psma-fdg-pet-ct-lesions_v2.zip, from its record at fdat (rdkqd-wdh87)."""
STEPS = ("convert", "clicks", "prepare")


@dataclass(frozen=True)
class Grids:
    """Cases with one lattice: their number, `(I, J, K)` with the mean number of slices, and the voxel size in mm."""

    cases: int
    shape: tuple[int, int, float]
    spacing: tuple[float, float, float]

    @property
    def voxels(self) -> float:
        """Millions of voxels in all cases."""
        i, j, k = self.shape
        return self.cases * i * j * k / 1e6

    @property
    def stored(self) -> float:
        """Millions of voxels in all cases after `clickseg prepare`, with its voxel size."""
        from clickseg.training_settings import StoreRules

        x, y, z = self.spacing
        a, b, c = StoreRules().spacing_mm
        return self.voxels * (x * y * z) / (a * b * c)


@dataclass(frozen=True)
class DownloadPlan:
    """A source: its published numbers, and the phantom that represents it.

    Attributes:
        title: Its name in the tables.
        command: Its name for `clicksim convert`.
        grids: Cases and voxels, from the headers of the published files or from their papers.
        download: The published size in bytes; or `share` (its share of the zip of fdat, by voxels), `phantom` (the
            files of the phantom, scaled by voxels) or `unknown`.
        write: Writes a phantom patient to a folder.
        shape: The shape of the phantom.
        spacing: The voxel size of the phantom, in mm; its slices are thick, so that it contains the whole body.
        protocol: The rule of the clicks.
    """

    title: str
    command: str
    grids: tuple[Grids, ...]
    download: int | str
    write: Callable[..., Any]
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    protocol: str = "autopet-iv@2"


FDG = Grids(1014, (400, 400, 350.2), (2.03642, 2.03642, 3.0))
PSMA = (
    Grids(251, (200, 200, 416.6), (4.07283, 4.07283, 2.0)),
    Grids(230, (256, 256, 269.6), (2.73438, 2.73438, 3.27)),
    Grids(116, (168, 168, 182.8), (4.07283, 4.07283, 5.0)),
)
"""The mean numbers of slices are those of the 1,611 published label headers."""
DEEP = Grids(200, (192, 192, 403.5), (3.019, 3.019, 4.0))
"""The sums of voxels and volume are those of the 200 published headers; the lattices differ between cases."""
CT = Grids(670, (512, 512, 172), (0.7, 0.7, 3.0))
"""Published: 670 volumes of 512 x 512 x 70 to 274 voxels of 0.518 to 0.89 mm; these are the middles of both ranges."""


def write_large_tcia(folder: Path, *, shape: Sequence[int], spacing: Sequence[float], **_: Any) -> None:
    """Write a study with as many files as a real one; `layouts.write_tcia` gives its patient a CT on the PET's grid."""
    from benchmarks.bench_tcia import ct_grid
    from clicksim.phantom import make_phantom
    from clicksim.phantom.dicom import StudyFacts, write_study

    tiny = tuple(shape) == SMALL_SHAPE
    made = make_phantom(3, shape=shape, spacing=spacing)
    write_study(folder, made, StudyFacts("PETCT_0123456789", seg="dcmqi", ct_grid=ct_grid(quick=tiny)))


PLANS = (
    DownloadPlan("fdat, FDG", "fdat", (FDG,), "share", layouts.write_fdat, (400, 400, 160), (2.03642, 2.03642, 6.0)),
    DownloadPlan("fdat, PSMA", "fdat", PSMA, "share", layouts.write_fdat, (200, 200, 200), (4.07283, 4.07283, 5.0)),
    DownloadPlan(
        "DEEP-PSMA", "deep-psma", (DEEP,), "unknown", layouts.write_deep_psma,
        (192, 192, 240), (2.86458, 2.86458, 4.0), "deep-psma@1",
    ),
    DownloadPlan(
        "longitudinal CT, v3", "longitudinal-ct", (CT,), 51_047_900_775, layouts.write_longitudinal_ct,
        (512, 512, 80), (0.89, 0.89, 12.0), "longitudinal-ct@1",
    ),
    DownloadPlan(
        "FDG, DICOM of TCIA", "tcia-fdg", (FDG,), "phantom", write_large_tcia, (400, 400, 326),
        (2.03642, 2.03642, 3.0),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Rates:
    """What one phantom patient needs.

    Attributes:
        cases: Number of cases in the catalog.
        voxels: Millions of voxels in all cases.
        stored: Millions of voxels in the store.
        seconds: CPU time by step.
        source: Bytes of the phantom's files.
        tables: Bytes of the catalog without its images.
        images: Bytes of the images in the catalog; 0 if the source is used in place.
        store: Bytes of the store.
    """

    cases: int
    voxels: float
    stored: float
    seconds: dict[str, float]
    source: int
    tables: int
    images: int
    store: int


def main(arguments: list[str] | None = None) -> None:
    """Measure every source and write the page."""
    parser = argparse.ArgumentParser(prog="python -m studies.planning", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny phantoms; the numbers mean nothing")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page to write")
    given = parser.parse_args(arguments)
    found = []
    for plan in PLANS:
        start = time.perf_counter()
        tiny = measure_source(plan, SMALL_SHAPE, SMALL_SPACING)  # loads and compiles
        found.append(tiny if given.quick else measure_source(plan, plan.shape, plan.spacing))
        print(f"{plan.title}: {time.perf_counter() - start:.1f} s", file=sys.stderr)
    given.out.write_text(render_plan(found), encoding="utf-8")
    print(f"written: {given.out}", file=sys.stderr)


def measure_source(plan: DownloadPlan, shape: Sequence[int], spacing: Sequence[float]) -> Rates:
    """One phantom patient from its files to the patch store."""
    from clickseg.data.prepare import prepare_store

    with tempfile.TemporaryDirectory() as name:
        tree, catalog, store = Path(name, "tree"), Path(name, "catalog"), Path(name, "store")
        plan.write(tree, patients=1, seed=3, shape=shape, spacing=spacing)
        source = find_source(plan.command)
        seconds = {
            "convert": _cpu(lambda: convert(source, tree, catalog)),
            "clicks": _cpu(lambda: simulate_catalog(catalog, [PromptRun(plan.protocol)])),
            "prepare": _cpu(lambda: prepare_store(catalog, store)),
        }
        rows = open_catalog(catalog).cases.to_pylist()
        images = _size(catalog / "images")
        return Rates(
            len(rows),
            sum(_product(row["shape_xyz"]) for row in rows) / 1e6,
            _stored(store),
            seconds,
            _size(tree),
            _size(catalog) - images,
            images,
            _size(store),
        )


def _cpu(work: Callable[[], Any]) -> float:
    """Seconds of CPU time; other processes on the machine do not count."""
    start = time.process_time()
    work()
    return time.process_time() - start


def _stored(store: Path) -> float:
    import pyarrow.parquet as pq

    return sum(_product(shape) for shape in pq.read_table(store / "cases.parquet")["shape"].to_pylist()) / 1e6


def _product(shape: Sequence[int]) -> int:
    i, j, k = shape
    return i * j * k


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def render_plan(found: Sequence[Rates]) -> str:
    """The page."""
    pairs = list(zip(PLANS, found, strict=True))
    sections = (
        Section("Space", SPACE, ("source", "cases", *SPACE_COLUMNS), [space(*pair) for pair in pairs]),
        Section(
            f"Hours on {CORES} cores",
            HOURS.format(cores=CORES),
            ("source", *(f"`{step}`" for step in STEPS), "together", f"the disk, at {DISK / 1e6:.0f} MB/s"),
            [hours(*pair) for pair in pairs],
        ),
        Section("What was measured", MEASURED, RATE_COLUMNS, [rates(*pair) for pair in pairs]),
    )
    parts = [INTRO, machine(), *(s.markdown() for s in sections)]
    return "\n".join(parts)


def space(plan: DownloadPlan, rate: Rates) -> list[str]:
    """A row of gigabytes."""
    download, catalog, store = sizes(plan, rate)
    shown = f"{_gb(download)}{'' if isinstance(plan.download, int) else ' (estimate)'}" if download else UNKNOWN
    return [plan.title, f"{totals(plan)[0]:,}", shown, shown, _gb(catalog), _gb(store)]


def sizes(plan: DownloadPlan, rate: Rates) -> tuple[float, float, float]:
    """Bytes of the download (0 if unknown), of the catalog and of the store."""
    cases, voxels, stored = totals(plan)
    by_rule = {"share": PER_VOXEL * voxels * 1e6, "phantom": rate.source / rate.voxels * voxels, "unknown": 0.0}
    download = plan.download if isinstance(plan.download, int) else by_rule[plan.download]
    images = PER_VOXEL * voxels * 1e6 if rate.images else 0
    return download, rate.tables / rate.cases * cases + images, rate.store / rate.stored * stored


def hours(plan: DownloadPlan, rate: Rates) -> list[str]:
    """A row of hours."""
    _, voxels, stored = totals(plan)
    amount = {"convert": voxels / rate.voxels, "clicks": voxels / rate.voxels, "prepare": stored / rate.stored}
    found = [rate.seconds[step] * amount[step] / CORES / 3600 for step in STEPS]
    download, catalog, store = sizes(plan, rate)
    images = catalog if rate.images else download
    disk = f"{(download + 2 * images + catalog + store) / DISK / 3600:.2g}" if download else "not known"
    return [plan.title, *(f"{value:.2g}" for value in (*found, sum(found))), disk]


def rates(plan: DownloadPlan, rate: Rates) -> list[str]:
    """A row of what the phantom needed."""
    by_voxel = [rate.seconds[step] / rate.voxels * 1e3 for step in ("convert", "clicks")]
    return [
        plan.title,
        f"{rate.cases}, {rate.voxels:.1f}",
        *(f"{value:.3g}" for value in (*by_voxel, rate.seconds["prepare"] / rate.stored * 1e3)),
        f"{rate.tables / rate.cases / 1e3:.0f} kB",
        "written" if rate.images else "used in place",
        f"{rate.store / rate.stored / 1e6:.2f}",
    ]


def totals(plan: DownloadPlan) -> tuple[int, float, float]:
    """Cases, millions of voxels, millions of voxels in the store."""
    return (
        sum(g.cases for g in plan.grids),
        sum(g.voxels for g in plan.grids),
        sum(g.stored for g in plan.grids),
    )


def _gb(size: float) -> str:
    """Bytes as GB of 10^9, or MB."""
    return (
        f"{size / 1e9:,.0f} GB" if size >= 10e9 else f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
    )


PER_VOXEL = ZIP_BYTES / sum(g.voxels * 1e6 for g in (FDG, *PSMA))
"""Compressed bytes of CT, PET and label together, per voxel of the fdat release."""
UNKNOWN = "see its record"
SPACE_COLUMNS = ("download", "unpacked", "catalog", "patch store")
RATE_COLUMNS = ("source", "cases, million voxels", *STEPS, "tables of a case", "images", "bytes in the store")
INTRO = """# What to plan

Written by `make planning`.

All figures are estimates, except the size of a download if its publisher states it. They are the rates of one phantom
patient per source, multiplied by the published numbers of cases and voxels. A patient is not a phantom, so add a
quarter. Training itself is not included.
"""
SPACE = f"""GB are 10^9 bytes. You need space for "download" and "unpacked" until you delete the archive. Images are
already compressed, so unpacking does not make them larger. The zip of fdat, {ZIP_BYTES:,} bytes by its record, contains
FDG and PSMA; it is divided by voxels, {PER_VOXEL:.2f} bytes per voxel with its CT, PET and label. The DICOM download is
that of a phantom study with as many files as a real one, scaled by voxels. "catalog" is cases x bytes of a case's
tables. This is too high, because the tables of two cases consist mostly of headers. If images are written too, voxels x
the bytes of fdat are added. This is too high if only the CT is written. "patch store" is what `clickseg prepare` writes
by its default rules: the field of view in voxels of the store x bytes of such a voxel. `compressed=true` and a coarser
`spacing_mm` make it smaller."""
HOURS = """CPU seconds of the phantom / its voxels x the voxels of the source / {cores} / 3600; for `prepare`, voxels of
the store. If the last column is larger, the disk is the limit. `convert` reads the source. `clicks` and `prepare` each
read the images of the catalog, or those of the source if they are used in place. (`clicks` reads no CT, so its figure
is too high.) Catalog and store are written once."""
MEASURED = """CPU milliseconds per million voxels; for `prepare`, per million voxels of the store. One process, after a
warm-up on a tiny patient."""


if __name__ == "__main__":
    main()
