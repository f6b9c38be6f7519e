"""Check that a catalog holds what it says.

Each check is one function that takes a catalog, reads only its tables and yields findings. `check_case_files` opens the
images of one case. `check_cohort` compares a catalog with the known figures of the publisher; errors in these are
corrected.
"""

import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from clicksim.audit import leakage, outliers
from clicksim.audit.fingerprints import Fingerprint, take_fingerprint
from clicksim.catalog.schema import FAILURES, FLAGS, REASONS, table_schema
from clicksim.catalog.store import Catalog
from clicksim.errors import CatalogError, ClicksimError, counted, unknown_name, up_to_ten
from clicksim.findings import Finding, sort_findings

Check = Callable[[Catalog], Iterator[Finding]]
READ = ("shape_xyz", "n_lesions", "lesion_volume_ml", "suv_max", "instances")
"""The columns of a case that its images are compared with."""


def check_catalog(catalog: Catalog) -> list[Finding]:
    """Check the tables of a catalog, and that the files that they point to exist.

    Every finding is an error.
    """
    return sort_findings(finding for check in CHECKS for finding in check(catalog))


def path_columns() -> list[str]:
    """The columns of a case that name a file, the label first."""
    names = [name for name in table_schema("cases").names if name.endswith("_path")]
    return sorted(names, key=lambda name: name != "label_path")


def check_case_keys(catalog: Catalog) -> Iterator[Finding]:
    """Each case has a patient and a unique id within its source; each lesion, link and prompt belongs to a case."""
    rows = catalog.cases.select(["case_id", "source", "patient_key"]).to_pylist()
    for row in rows:
        if row["patient_key"] is None:
            yield _fault("keys", row["case_id"], "the row has no patient_key, so no leak can be found")
    for (source, case), count in Counter((row["source"], row["case_id"]) for row in rows).items():
        if count > 1:
            yield _fault("keys", case, f"{count} rows in {source}")
    known = {row["case_id"] for row in rows}
    for table, columns in (("lesions", ["case_id"]), ("links", ["bl_case_id", "fu_case_id"]), ("prompts", ["case"])):
        for column in columns:
            for case in sorted(set(catalog.table(table)[column].to_pylist()) - known - {None}):
                yield _fault("keys", case, f"{table}.{column} names a case that is not in cases")


def check_files(catalog: Catalog) -> Iterator[Finding]:
    """Each path resolves below its root, and the file exists."""
    columns = [name for name in catalog.cases.schema.names if name.endswith("_path")]
    for row in catalog.cases.select(["case_id", *columns]).to_pylist():
        for column in columns:
            if row[column] is None:
                continue
            try:
                size = catalog.size_of(row[column])
            except CatalogError as error:
                yield _fault("files", row["case_id"], f"{column}: {error}")
                continue
            if size is None:
                yield _fault(
                    "files",
                    row["case_id"],
                    f"{column}: {row[column]} does not exist; has it moved? See clicksim catalog relocate",
                )


def check_folds(catalog: Catalog) -> Iterator[Finding]:
    """No patient in two official folds or two splits."""
    for found in leakage.check_official_folds(catalog):
        yield _fault("folds", "", found.detail)


def check_codes(catalog: Catalog) -> Iterator[Finding]:
    """Every flag, every reason and every failure of a round is known."""
    for row in catalog.cases.select(["case_id", "quality_flags"]).to_pylist():
        for flag in row["quality_flags"] or []:
            if flag not in FLAGS:
                yield _fault("codes", row["case_id"], f"unknown quality flag {flag}")
    for row in catalog.rejected.select(["case_id", "code"]).to_pylist():
        if row["code"] not in REASONS:
            yield _fault("codes", row["case_id"], f"unknown reason {row['code']}")
    for row in catalog.table("rounds").select(["case_id", "failure"]).to_pylist():
        if row["failure"] is not None and row["failure"] not in FAILURES:
            yield _fault("codes", row["case_id"], f"unknown failure {row['failure']}")


def check_lesions(catalog: Catalog) -> Iterator[Finding]:
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
            yield _fault("lesions", case, f"n_lesions is {row['n_lesions']}, its rows in lesions: {lesions}")
        elif abs((row["lesion_volume_ml"] or 0) - ml) > 1e-3 * max(1.0, ml):
            yield _fault("lesions", case, f"lesion_volume_ml is {row['lesion_volume_ml']}, the rows sum to {ml:.6g}")


def check_prompts(catalog: Catalog) -> Iterator[Finding]:
    """Every prompt voxel is inside its case; one finding for each run and case."""
    for found in outliers.check_prompt_outliers(catalog):
        yield _fault("prompts", found.cases[0], found.detail)


def check_unlisted(catalog: Catalog) -> Iterator[Finding]:
    """Every image in the folder of the catalog belongs to a case; one finding for all that do not."""
    home = catalog.home
    if not isinstance(home, Path) or not (home / "images").is_dir():  # `push --prune` keeps what is listed
        return
    columns = path_columns()
    listed = {location for row in catalog.cases.select(columns).to_pylist() for location in row.values()}
    names = (file.relative_to(home).as_posix() for file in (home / "images").rglob("[!.]*") if file.is_file())
    strays = sorted(name for name in names if f"catalog:{name}" not in listed)
    if strays:
        told = f"{counted(len(strays), 'file')} below images belong to no case, such as after a damaged table"
        yield Finding("warning", "unlisted", (), f"{told}: {up_to_ten(strays)}; delete those that you do not need")


def check_case_files(
    catalog: Catalog, row: Mapping[str, Any], *, fingerprint: bool = False
) -> tuple[list[str], Fingerprint | None]:
    """Open every image of a case, and compare the label and the PET with the row.

    Args:
        catalog: An open catalog.
        row: A row of its cases, with `READ` and all columns that name a file.
        fingerprint: Whether to take the fingerprint of the PET, or of the CT if there is no PET.

    Returns:
        A sentence for each fault, and the fingerprint.
    """
    faults, taken = [] if row["label_path"] else ["the row has no label"], None
    printed = "pet_path" if row["pet_path"] else "ct_path"
    for column in path_columns():
        if row[column] is None:
            continue
        try:
            if column == "label_path":
                faults += _compare_label(catalog, row)
                continue
            image = _read_array(catalog, row[column])
            if fingerprint and column == printed:
                taken = take_fingerprint(image)
            if column == "pet_path":
                faults += _compare_uptake(image, row)
        except ClicksimError as error:
            faults.append(f"{column}: {error}")
    return faults, taken


def _read_array(catalog: Catalog, location: str) -> NDArray[Any]:
    from clicksim.volumes import read_image

    return read_image(catalog.resolve(location)).array


def _compare_label(catalog: Catalog, row: Mapping[str, Any]) -> Iterator[str]:
    """How the label of a case differs from its row."""
    from clicksim.lesions import find_lesions
    from clicksim.volumes import read_label

    label = read_label(catalog.resolve(row["label_path"]))
    lesions = find_lesions(label.array, instances=row["instances"])
    volume, said = float(lesions.sizes.sum()) * label.grid.voxel_ml, row["lesion_volume_ml"] or 0.0
    if list(label.grid.shape) != row["shape_xyz"]:
        yield f"label has shape {label.grid.shape}, the row says {row['shape_xyz']}"
    if len(lesions) != row["n_lesions"] or abs(volume - said) > 1e-3 * max(1.0, volume):
        told = counted(row["n_lesions"] or 0, "lesion")
        yield f"{counted(len(lesions), 'lesion')} of {volume:.6g} ml, the row says {told} of {said:.6g} ml"


def _compare_uptake(image: NDArray[Any], row: Mapping[str, Any]) -> Iterator[str]:
    """How the PET of a case differs from its row."""
    if row["suv_max"] is None:
        return
    top = float(image.max())
    if abs(top - row["suv_max"]) > 1e-4 * max(1.0, abs(top)):
        yield f"highest uptake {top:.6g}, the row says {row['suv_max']:.6g}"


def _fault(check: str, case_id: str | None, detail: str) -> Finding:
    """An error in one case, or without an id in the whole catalog."""
    return Finding("error", check, (case_id,) if case_id else (), detail)


CHECKS: tuple[Check, ...] = (check_case_keys, check_files, check_folds, check_codes, check_lesions, check_prompts)


@dataclass(frozen=True)
class PublishedFigure:
    """One figure of a cohort, in the complete download and in the catalog."""

    name: str
    expected: int
    found: int


def check_cohort(catalog: Catalog, cohort: str) -> list[PublishedFigure]:
    """Compare the figures of a catalog with those of the complete download.

    `cohorts/<name>.toml` holds the expected figures: counts of cases or of patients under conditions on the columns.

    Raises:
        SettingError: There is no such cohort; the message names the known ones.
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
    """Whether a column equals a value, or starts with it if the value is a list."""
    held = row[key]
    return held[: len(value)] == value if isinstance(value, list) and held is not None else bool(held == value)
