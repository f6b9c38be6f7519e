"""The report of a catalog of the published size: how large it is, and how fast in a browser."""

import json
import statistics
import tempfile
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_data import case_spacing, phantom
from benchmarks.browser import BrowserPage, find_browser, open_browser
from benchmarks.result_table import Section, show_time
from benchmarks.timing import once
from clicksim import simulate_clicks
from clicksim.catalog import Catalog, create_catalog
from clicksim.catalog.schema import rows_to_table
from clicksim.findings import Finding
from clicksim.prompts import Prompts
from clicksim.prompts.table import to_table
from clicksim.report.catalog import Picture, select_cases, write_report
from clicksim.report.thumbnails import draw_thumbnail

TEXT = """`clicksim report` of a catalog of {count:,} synthetic rows: {distinct} phantoms of {voxels:.1f} million voxels
under {count:,} names, with the clicks of one run and two runs of rounds. "drawing" is one case without reading its
files. Headless Chromium opens the page from disk. "first paint" is the first-contentful-paint in a fresh process.
"filter" is the slowest of {filters} filters, from the input to the painted result."""
HEADER = ("work", "measured", "bar", "reached")
COUNT, DISTINCT, LESIONS, ROUNDS = 1611, 4, 12, 6
MOST_BYTES, MOST_PAINT_S, MOST_FILTER_S = 30e6, 2.0, 0.1
FILTERS = ("f", "fdg", "psma biograph", "melanoma", "case 12", "discovery 690 fdg", "no such case", "")
MODELS = ("Biograph mCT Flow 20", "Biograph 64-4R TruePoint", "Discovery 690")
DIAGNOSES = ("NEGATIVE", "MELANOMA", "LYMPHOMA", "LUNG_CANCER")
PAINTED = """(async () => {{
  const field = document.querySelector("#query"), start = performance.now();
  field.value = {text};
  field.dispatchEvent(new Event("input"));
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return performance.now() - start;
}})()"""
FIRST_PAINT = """new Promise((done) => new PerformanceObserver((list) => {
  const found = list.getEntriesByName("first-contentful-paint")[0];
  if (found) done(found.startTime);
}).observe({type: "paint", buffered: true}))"""


def run(*, full: bool, quick: bool) -> list[Section]:  # noqa: ARG001
    count = 60 if quick else COUNT
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        catalog = make_catalog(folder / "catalog", count, quick=quick)
        pictures = make_pictures(catalog, quick=quick)
        drawing, _ = once(lambda: draw(0, quick=quick))
        findings = [Finding("warning", "uptake", (f"case{n:04d}",), f"suv_max {n}") for n in range(0, count, 9)]
        page = folder / "page.html"
        writing, _ = once(lambda: write_report(page, select_cases(catalog), pictures, findings))
        size = page.stat().st_size
        rows = [
            ["drawing one case", show_time(drawing), "", ""],
            [f"writing the page of {count:,} cases", show_time(writing), "", ""],
            _row("size of the page", size, f"{size / 1e6:.1f} MB", MOST_BYTES, f"{MOST_BYTES / 1e6:.0f} MB"),
            *_in_browser(page),
        ]
    voxels = phantom(1, quick=quick, n_lesions=LESIONS).pet.size / 1e6
    text = TEXT.format(count=count, distinct=DISTINCT, voxels=voxels, filters=len(FILTERS))
    return [Section("The report", text, HEADER, rows)]


def make_catalog(folder: Path, count: int, *, quick: bool) -> Catalog:
    """A catalog of synthetic rows: cases, lesions, one prompt run, two runs of rounds."""
    rng = np.random.default_rng(5)
    catalog = create_catalog(folder)
    cases = [_case(n, rng, quick=quick) for n in range(count)]
    lesions = [
        {
            "case_id": case["case_id"],
            "lesion_index": index,
            "volume_ml": float(rng.lognormal(0.5, 1.5)),
            "suv_max": float(rng.lognormal(2, 0.6)),
        }
        for case in cases
        for index in range(case["n_lesions"])
    ]
    catalog.write_part("cases", "fdat", rows_to_table("cases", cases))
    catalog.write_part("lesions", "fdat", rows_to_table("lesions", lesions))
    made = phantom(1, quick=quick, n_lesions=LESIONS)
    no_clicks = to_table(Prompts((), made.grid, "none", "autopet-iv@2", 42))  # the pictures have their own
    catalog.write_part("prompts", "autopet-iv", no_clicks)
    for run_name, start in (("network", 0.6), ("threshold", 0.35)):
        rounds = [row for case in cases for row in _rounds(case, start, rng)]
        catalog.write_part("rounds", run_name, rows_to_table("rounds", rounds))
    return catalog


def make_pictures(catalog: Catalog, *, quick: bool) -> dict[tuple[str, str], Picture]:
    """Pictures for all cases: those of a few phantoms, repeated in turn."""
    drawn = [draw(n, quick=quick) for n in range(DISTINCT)]
    return {("fdat", case): drawn[n % DISTINCT] for n, case in enumerate(catalog.cases["case_id"].to_pylist())}


@cache
def _strokes(number: int, *, quick: bool) -> list[dict[str, Any]]:
    made = phantom(number + 1, quick=quick, n_lesions=LESIONS)
    prompts = simulate_clicks(made.label, uptake=made.pet, spacing=made.grid.spacing)
    return [{"foreground": p.foreground, "kind": "click", "voxels": list(p.voxels)} for p in prompts]


def draw(number: int, *, quick: bool) -> Picture:
    """The picture of a phantom with its clicks. The head is shown, which makes the picture larger."""
    made = phantom(number + 1, quick=quick, n_lesions=LESIONS)
    strokes = {0: _strokes(number, quick=quick)}
    drawn = draw_thumbnail(made.pet, made.label, strokes, grid=made.grid, hide_head=False)
    return drawn.webp, json.dumps(drawn.overlay, separators=(",", ":"))


def _case(n: int, rng: np.random.Generator, *, quick: bool) -> dict[str, Any]:
    grid = phantom(n % DISTINCT + 1, quick=quick, n_lesions=LESIONS).grid
    psma = n % 8 < 3
    lesions = 0 if rng.random() < 0.35 else int(rng.lognormal(1.3, 1))
    return {
        "case_id": f"case{n:04d}",
        "patient_key": f"fdat/{n // 2}",
        "tracer_class": "PSMA" if psma else "FDG",
        "radionuclide": "F18",
        "timepoint": "single",
        "study_date": date(2010, 1, 1) + timedelta(days=n),
        "sex": "M" if psma or n % 2 else "F",
        "age_years": float(rng.integers(18, 96)),
        "diagnosis": "PROSTATE" if psma else DIAGNOSES[n % 4],
        "model": MODELS[n % 3],
        "shape_xyz": list(grid.shape),
        "spacing_xyz_mm": list(case_spacing(grid)),
        "lesion_present": lesions > 0,
        "n_lesions": lesions,
        "lesion_volume_ml": float(rng.lognormal(2, 1.5)) if lesions else 0.0,
        "suv_max_in_lesion": float(rng.lognormal(2, 0.6)) if lesions else None,
        "official_fold": n // 2 % 5,
        "quality_flags": ["CT_CLIPPED"] if n % 11 == 0 else [],
    }


def _rounds(case: dict[str, Any], start: float, rng: np.random.Generator) -> list[dict[str, Any]]:
    scores = np.minimum(1, start + rng.uniform(0, 0.3) + 0.05 * np.arange(ROUNDS))
    known = case["n_lesions"] > 0
    return [
        {
            "case_id": case["case_id"],
            "source": "fdat",
            "annotator": "simulated",
            "round": number,
            "dice": float(score) if known else None,
            "dmm": float(score**2) if known else None,
            "fpv_ml": float(20 * (1 - score)),
            "fnv_ml": float(9 * (1 - score)) if known else None,
        }
        for number, score in enumerate(scores)
    ]


def _in_browser(file: Path) -> list[list[str]]:
    """First paint and filters; without a browser, a row that says so."""
    if find_browser() is None:
        return [["first paint and filter", "not run: no Chromium is installed", "", ""]]
    paints = []
    for _ in range(3):
        with open_browser() as page:
            page.open(file)
            paints.append(float(page.run(FIRST_PAINT)) / 1000)
            filters = [_filter(page, text) for text in FILTERS]
    paint, slowest = statistics.median(paints), max(filters)
    return [
        _row("first paint", paint, show_time(paint), MOST_PAINT_S, show_time(MOST_PAINT_S)),
        _row("filter", slowest, show_time(slowest), MOST_FILTER_S, show_time(MOST_FILTER_S)),
    ]


def _filter(page: BrowserPage, text: str) -> float:
    return float(page.run(PAINTED.format(text=json.dumps(text)))) / 1000


def _row(work: str, value: float, shown: str, most: float, bar: str) -> list[str]:
    return [work, shown, bar, "bar" if value <= most else "no"]
