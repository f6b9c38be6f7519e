"""Whether a catalog holds what it says: cheap looks by default, every file opened on request.

Each check is one function from a catalog to findings. `check_cohort` holds a catalog against the publisher's
figures, as far as they are known and with their errors mended.
"""

import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from numpy.typing import NDArray

from clicksim.audit import leakage, outliers
from clicksim.catalog.schema import FAILURES, FLAGS, REASONS
from clicksim.catalog.store import Catalog
from clicksim.errors import CatalogError, ClicksimError, counted, unknown_name


@dataclass(frozen=True)
class CatalogFinding:
    """Something that is not as it should be.

    Attributes:
        check: The name of the check.
        case_id: The case, or empty for the catalog as a whole.
        detail: What is wrong, what came, what was expected.
    """

    check: str
    case_id: str
    detail: str


Check = Callable[[Catalog], Iterator[CatalogFinding]]
Row = dict[str, Any]
Look = Callable[[Row, NDArray[Any]], None]
READ = (
    "case_id", "source", "patient_key", "label_path", "pet_path", "ct_path", "shape_xyz", "n_lesions",
    "lesion_volume_ml", "suv_max", "instances",
)  # fmt: skip


def check_catalog(
    catalog: Catalog, *, read_data: bool = False, progress: Callable[[int, int], None] | None = None
) -> list[CatalogFinding]:
    """All findings, by check and case.

    Args:
        catalog: An open catalog.
        read_data: Open every label and uptake and measure the lesions again.
        progress: Told after each case that is read.
    """
    found = [finding for check in CHECKS for finding in check(catalog)]
    found += check_data(catalog, progress) if read_data else ()
    return sorted(found, key=lambda f: (f.check, f.case_id, f.detail))


def check_keys(catalog: Catalog) -> Iterator[CatalogFinding]:
    """Each case has a patient, and its id once in its source; each lesion, link and prompt belongs to a case."""
    rows = catalog.cases.select(["case_id", "source", "patient_key"]).to_pylist()
    for row in rows:
        if row["patient_key"] is None:
            yield CatalogFinding(
                "keys", row["case_id"], "the row has no patient_key, without which no leak can be seen"
            )
    for (source, case), count in Counter((row["source"], row["case_id"]) for row in rows).items():
        if count > 1:
            yield CatalogFinding("keys", case, f"{count} rows in {source}")
    known = {row["case_id"] for row in rows}
    for table, columns in (("lesions", ["case_id"]), ("links", ["bl_case_id", "fu_case_id"]), ("prompts", ["case"])):
        for column in columns:
            for case in sorted(set(catalog.table(table)[column].to_pylist()) - known - {None}):
                yield CatalogFinding("keys", case, f"{table}.{column} names a case that is not in cases")


def check_files(catalog: Catalog) -> Iterator[CatalogFinding]:
    """Each path resolves below its root and is there."""
    columns = [name for name in catalog.cases.schema.names if name.endswith("_path")]
    for row in catalog.cases.select(["case_id", *columns]).to_pylist():
        for column in columns:
            if row[column] is None:
                continue
            try:
                size = catalog.size_of(row[column])
            except CatalogError as error:
                yield CatalogFinding("files", row["case_id"], f"{column}: {error}")
                continue
            if size is None:
                yield CatalogFinding(
                    "files", row["case_id"], f"{column}: {row[column]} is not there; clicksim catalog relocate?"
                )


def check_folds(catalog: Catalog) -> Iterator[CatalogFinding]:
    """No patient in two official folds or two splits."""
    for found in leakage.check_official_folds(catalog):
        yield CatalogFinding("folds", "", found.detail)


def check_codes(catalog: Catalog) -> Iterator[CatalogFinding]:
    """Every flag, every reason and every failure of a round is a known one."""
    for row in catalog.cases.select(["case_id", "quality_flags"]).to_pylist():
        for flag in row["quality_flags"] or []:
            if flag not in FLAGS:
                yield CatalogFinding("codes", row["case_id"], f"unknown quality flag {flag}")
    for row in catalog.rejected.select(["case_id", "code"]).to_pylist():
        if row["code"] not in REASONS:
            yield CatalogFinding("codes", row["case_id"] or "", f"unknown reason {row['code']}")
    for row in catalog.table("rounds").select(["case_id", "failure"]).to_pylist():
        if row["failure"] is not None and row["failure"] not in FAILURES:
            yield CatalogFinding("codes", row["case_id"], f"unknown failure {row['failure']}")


def check_lesions(catalog: Catalog) -> Iterator[CatalogFinding]:
    """The number and volume of lesions in `cases` are those of the rows in `lesions`."""
    count: Counter[tuple[str, str]] = Counter()
    volume: dict[tuple[str, str], float] = defaultdict(float)
    for row in catalog.lesions.select(["source", "case_id", "voxels", "volume_ml"]).to_pylist():
        if row["voxels"] is not None:
            count[row["source"], row["case_id"]] += 1
            volume[row["source"], row["case_id"]] += row["volume_ml"] or 0.0
    for row in catalog.cases.select(["source", "case_id", "n_lesions", "lesion_volume_ml"]).to_pylist():
        case, lesions, ml = row["case_id"], count[row["source"], row["case_id"]], volume[row["source"], row["case_id"]]
        if row["n_lesions"] != lesions:
            yield CatalogFinding("lesions", case, f"n_lesions {row['n_lesions']}, rows {lesions}")
        elif abs((row["lesion_volume_ml"] or 0) - ml) > 1e-3 * max(1.0, ml):
            yield CatalogFinding("lesions", case, f"lesion_volume_ml {row['lesion_volume_ml']}, rows {ml:.6g}")


def check_prompts(catalog: Catalog) -> Iterator[CatalogFinding]:
    """Every prompt voxel lies inside its case; one finding for each run and case."""
    for found in outliers.check_prompt_outliers(catalog):
        yield CatalogFinding("prompts", found.cases[0], found.detail)


def check_data(
    catalog: Catalog, progress: Callable[[int, int], None] | None = None, look: Look | None = None
) -> Iterator[CatalogFinding]:
    """Every label and uptake opens, on the grid and with the lesions that the row says.

    Args:
        catalog: An open catalog.
        progress: Told after each case.
        look: Given each row with its uptake, or with its CT where it has none.
    """
    rows = catalog.cases.select(list(READ)).to_pylist()
    for done, row in enumerate(rows, start=1):
        for details in (_compare_label(catalog, row), _compare_image(catalog, row, look)):
            try:
                for detail in details:
                    yield CatalogFinding("data", row["case_id"], detail)
            except ClicksimError as error:
                yield CatalogFinding("data", row["case_id"], str(error))
        if progress:
            progress(done, len(rows))


def _compare_label(catalog: Catalog, row: Row) -> Iterator[str]:
    """What the label of a case and its row say differently."""
    from clicksim.lesions import find_lesions
    from clicksim.volumes import read_label

    if row["label_path"] is None:
        yield "the row has no label"
        return
    label = read_label(catalog.resolve(row["label_path"]))
    lesions = find_lesions(label.array, instances=row["instances"])
    volume, said = float(lesions.sizes.sum()) * label.grid.voxel_ml, row["lesion_volume_ml"] or 0.0
    if list(label.grid.shape) != row["shape_xyz"]:
        yield f"label has shape {label.grid.shape}, the row says {row['shape_xyz']}"
    if len(lesions) != row["n_lesions"] or abs(volume - said) > 1e-3 * max(1.0, volume):
        told = counted(row["n_lesions"], "lesion")
        yield f"{counted(len(lesions), 'lesion')} of {volume:.6g} ml, the row says {told} of {said:.6g} ml"


def _compare_image(catalog: Catalog, row: Row, look: Look | None) -> Iterator[str]:
    """What the uptake of a case and its row say differently."""
    from clicksim.volumes import read_image

    path = row["pet_path"] or (row["ct_path"] if look else None)
    if path is None:
        return
    image = read_image(catalog.resolve(path)).array
    if look:
        look(row, image)
    if row["pet_path"] and row["suv_max"] is not None:
        top = float(image.max())
        if abs(top - row["suv_max"]) > 1e-4 * max(1.0, abs(top)):
            yield f"highest uptake {top:.6g}, the row says {row['suv_max']:.6g}"


CHECKS: tuple[Check, ...] = (check_keys, check_files, check_folds, check_codes, check_lesions, check_prompts)


@dataclass(frozen=True)
class PublishedFigure:
    """One figure of a cohort: what the publisher's data give, and what the catalog holds."""

    name: str
    expected: int
    found: int


def check_cohort(catalog: Catalog, cohort: str) -> list[PublishedFigure]:
    """The catalog's figures beside those that the complete download gives.

    The expectations stand in `cohorts/<name>.toml`: each is a count of cases or of patients under conditions on
    the columns.

    Raises:
        SettingError: No such cohort; the known ones are named.
    """
    known = {path.name.removesuffix(".toml"): path for path in files("clicksim.audit").joinpath("cohorts").iterdir()}
    if cohort not in known:
        raise unknown_name("cohort", cohort, known)
    rows = catalog.cases.to_pylist()
    figures = []
    for figure in tomllib.loads(known[cohort].read_text(encoding="utf-8"))["figure"]:
        kept = [row for row in rows if all(_meets(row, key, value) for key, value in figure["where"].items())]
        found = len({row["patient_key"] for row in kept}) if figure["count"] == "patients" else len(kept)
        figures.append(PublishedFigure(figure["name"], figure["expected"], found))
    return figures


def _meets(row: dict[str, Any], key: str, value: Any) -> bool:
    """Whether a column has a value, or for a list of a column starts with it."""
    held = row[key]
    return held[: len(value)] == value if isinstance(value, list) and held is not None else bool(held == value)
