"""A catalog of the size of the published cohort and one that is sixty times as large: open, filter, join, look up."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.result_table import Section, at_most, within
from benchmarks.timing import Time, measure
from clicksim.catalog import Catalog, create_catalog, open_catalog
from clicksim.catalog.schema import rows_to_table

TEXT = """Catalogs with synthetic rows: {small:,} cases, as in the published cohort, and {large:,} cases. Each case has
{lesions} lesions, the published mean. Imports are not timed. Arrow uses its own threads. "open, filter, join" opens the
catalog, keeps the PSMA cases, and joins their lesions. "one case" looks up the row of one case id; its rival is the
same look-up in the small catalog."""

LESIONS = 17


def run(*, full: bool, quick: bool) -> list[Section]:  # noqa: ARG001
    """Time both sizes."""
    small, large = (16, 100) if quick else (1_611, 100_000)
    with tempfile.TemporaryDirectory() as folder:
        paths = {count: _write(Path(folder) / str(count), count) for count in (small, large)}
        works: dict[str, Any] = {}
        for count, path in paths.items():
            works[f"join {count}"] = lambda path=path: _join(path)
            works[f"case {count}"] = lambda path=path, count=count: open_catalog(path).case(f"case{count // 2:06d}")
            works[f"read {count}"] = lambda path=path: open_catalog(path).lesions
        times = measure(works, rounds=2 if quick else 5)
    text = TEXT.format(small=small, large=large, lesions=LESIONS)
    return [Section("Catalog", text, rows=list(_rows(times, small, large)))]


def _rows(times: dict[str, Time], small: int, large: int) -> Any:
    read = "reading all lesions only"
    for count in (small, large):
        work = f"open, filter, join, {count:,} cases"
        ours, theirs = times[f"join {count}"], times[f"read {count}"]
        yield within(work, ours, read, theirs, bar_s=0.2) if count == small else at_most(work, ours, read, theirs)
    yield at_most(f"one case of {large:,}", times[f"case {large}"], f"one case of {small:,}", times[f"case {small}"])


def _write(path: Path, count: int) -> Path:
    """A catalog with random but plausible rows."""
    draws = np.random.default_rng(count)
    catalog: Catalog = create_catalog(path)
    names = [f"case{n:06d}" for n in range(count)]
    tracers = np.where(np.arange(count) % 8 < 5, "FDG", "PSMA")
    rows = [
        {"case_id": name, "patient_key": f"p{n // 2}", "tracer_class": str(tracers[n]), "shape_xyz": [400, 400, 326],
         "spacing_xyz_mm": [2.036, 2.036, 3.0], "affine_ras": [float(v) for v in range(16)], "n_lesions": LESIONS,
         "label_path": f"fdat:labelsTr/{name}.nii.gz", "quality_flags": []}
        for n, name in enumerate(names)
    ]  # fmt: skip
    catalog.write_part("cases", "fdat", rows_to_table("cases", rows))
    total = count * LESIONS
    empty = rows_to_table("lesions", []).schema
    columns = {field.name: pa.nulls(total, field.type) for field in empty}
    columns["case_id"] = pa.array(np.repeat(names, LESIONS))
    columns["lesion_index"] = pa.array(np.tile(np.arange(1, LESIONS + 1), count), pa.int32())
    columns["volume_ml"] = pa.array(draws.lognormal(0, 1.3, total))
    columns["suv_max"] = pa.array(draws.gamma(4, 2, total), pa.float32())
    catalog.write_part("lesions", "fdat", pa.table(columns, schema=empty))
    return path


def _join(path: Path) -> pa.Table:
    catalog = open_catalog(path)
    cases = catalog.cases.select(["case_id", "patient_key", "tracer_class"])
    chosen = cases.filter(pc.field("tracer_class") == "PSMA")
    return catalog.lesions.select(["case_id", "volume_ml", "suv_max"]).join(chosen, "case_id", join_type="inner")
