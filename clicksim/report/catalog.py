"""Write the report of a catalog: one HTML file with figures, cases, findings and curves, without external resources.

`privacy` decides what the page shows of a case; `thumbnails` draws the pictures. All data is embedded as JSON and
inserted as text, never as markup. A policy in the head lets no other script run.
"""

import base64
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clicksim.catalog.schema import FLAGS, REASONS
from clicksim.errors import CatalogError
from clicksim.files import clear_abandoned, open_templates, write_text
from clicksim.findings import Finding
from clicksim.prompts.table import METADATA_KEY
from clicksim.report.figures import SERIES, cohort_figures, fold_balance, show_tracer
from clicksim.report.privacy import OTHER, Released, name_runs, release_cases

if TYPE_CHECKING:
    from markupsafe import Markup

    from clicksim.catalog import Catalog

MOST_FINDINGS = 2_000
SCORES = ("dice", "dmm", "fpv_ml", "fnv_ml")
COLUMNS = (
    "name", "source", "patient", "pair", "tracer", "nuclide", "timepoint", "sex", "age", "diagnosis", "scanner",
    "contrast", "shape", "spacing", "lesions", "volume", "suv", "fold", "split", "defaced", "date", "flags",
)  # fmt: skip
Picture = tuple[bytes, str]
"""A picture as WebP, and its overlay as JSON."""


@dataclass(frozen=True)
class Selection:
    """The cases and runs of a report, chosen before anything is drawn.

    Attributes:
        catalog: An open catalog.
        released: All its cases, as a page may show them.
        shown: Indices into `released.rows` of the cases that get a line and a picture.
        runs: Ids of the prompt runs.
        public: Whether the page will be given to others.
    """

    catalog: "Catalog"
    released: Released
    shown: Sequence[int]
    runs: Sequence[str]
    public: bool

    @property
    def keys(self) -> list[tuple[str, str]]:
        """Source and case id of the cases that are shown."""
        return [self.released.rows[place]["key"] for place in self.shown]


def select_cases(catalog: "Catalog", *, public: bool = False, cases: int | None = None) -> Selection:
    """Choose the cases and runs of a report.

    Args:
        catalog: An open catalog.
        public: Drop names, UIDs, dates and paths, and show ages over 89 as 90.
        cases: How many cases to list, spread evenly over the catalog; None lists all. Figures count all cases.

    Raises:
        CatalogError: The catalog has no cases.
    """
    released = release_cases(catalog, public=public)
    count = len(released.rows)
    if not count:
        raise CatalogError(f"{catalog.home} has no cases to report on; add cases with clicksim convert")
    wanted = count if cases is None else min(cases, count)
    shown = [n * count // wanted for n in range(wanted)]
    return Selection(catalog, released, shown, catalog.runs, public)


def write_report(
    path: str | Path,
    selection: Selection,
    pictures: Mapping[tuple[str, str], Picture],
    findings: Sequence[Finding] = (),
    *,
    title: str = "Catalog report",
) -> Path:
    """Write the report, completely or not at all; the same input gives the same bytes.

    Args:
        path: The HTML file; an existing file is replaced.
        selection: From `select_cases`.
        pictures: By source and case id; a case without a picture is still listed.
        findings: From checks and audits. A public page shows only check and case.
        title: Heading and window title.
    """
    from markupsafe import Markup

    from clicksim import __version__

    environment = open_templates("clicksim.report")
    style, script = (_asset(environment, name) for name in ("catalog.css", "catalog.js"))
    rows = selection.released.rows
    listed = _list_findings(selection, findings)
    rounds = _round_series(selection)
    figures = cohort_figures(rows, _lesions(selection))
    text = environment.get_template("catalog.html.j2").render(
        title=title,
        version=__version__,
        public=selection.public,
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
        tiles=_tiles(selection, len(findings), len(rounds)),
        figures=figures,
        series=[(name, show_tracer(name)) for name in SERIES if any(name in figure.series for figure in figures)],
        folds=fold_balance(rows, _plans(selection)),
        findings=listed,
        findings_left=len(findings) - len(listed),
        flags=_count_flags(rows),
        rejected=_count_rejected(selection.catalog),
        sources=_describe_sources(selection.catalog),
        rounds=bool(rounds),
        shown=len(selection.shown),
        count=len(rows),
        data=as_json(_data(selection, listed, rounds)),
        pictures=[_picture(pictures.get(key)) for key in selection.keys],
    )
    target = Path(path)
    clear_abandoned(target)
    write_text(target, text)
    return target


def as_json(content: Any) -> "Markup":
    """Encode JSON for use inside a `script` element: no text in it can end the element or open a comment.

    Raises:
        ValueError: If a number is not finite.
    """
    from markupsafe import Markup

    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _asset(environment: Any, name: str) -> str:
    """Read a file from the template folder, unchanged."""
    text, _, _ = environment.loader.get_source(environment, name)
    return str(text)


def _policy(style: str, script: str) -> str:
    """The content security policy: only the style and the script of this page, by hash, and embedded pictures."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _tiles(selection: Selection, findings: int, rounds: int) -> list[tuple[str, str]]:
    rows = selection.released.rows
    found = {
        "cases": len(rows),
        "patients": len({row["patient"] for row in rows}),
        "without lesions": sum(row["lesions"] == 0 for row in rows),
        "lesions": sum(row["lesions"] or 0 for row in rows),
        "prompt runs": len(selection.catalog.runs),
        "runs of rounds": rounds,
        "findings": findings,
        "rejected": selection.catalog.rejected.num_rows,
    }
    return [(name, f"{count:,}") for name, count in found.items()]


def _lesions(selection: Selection) -> list[tuple[str, float | None, float | None]]:
    """Tracer, volume and highest SUV of each lesion that is in its mask."""
    table = selection.catalog.lesions.select(["source", "case_id", "voxels", "volume_ml", "suv_max"]).to_pylist()
    tracers = {row["key"]: row["tracer"] or OTHER for row in selection.released.rows}
    return [
        (tracers.get((row["source"], row["case_id"]), OTHER), _finite(row["volume_ml"]), _finite(row["suv_max"]))
        for row in table
        if row["voxels"] is not None
    ]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _list_findings(selection: Selection, findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Findings as the page shows them, each with the index of its case in the list, or -1."""
    released = selection.released
    places = {place: n for n, place in enumerate(selection.shown)}

    def about(case_id: str) -> tuple[str, int]:
        place = released.find(case_id)
        if place is None:
            return "a case that is not in the catalog", -1
        return released.rows[place]["name"], places.get(place, -1)

    return [
        {
            "severity": finding.severity,
            "check": finding.check,
            "cases": [about(case_id) for case_id in finding.cases],
            "detail": "" if selection.public else released.scrub(finding.detail),
        }
        for finding in findings[:MOST_FINDINGS]
    ]


def _plans(selection: Selection) -> dict[str, dict[tuple[str, str], int | None]]:
    """The fold of each case, by plan."""
    catalog = selection.catalog
    names = catalog.parts("folds")
    found = {}
    for number, name in enumerate(names, start=1):
        rows = catalog.table("folds", name).select(["source", "case_id", "fold"]).to_pylist()
        shown = f"plan {number}" if selection.public else name
        found[shown] = {(row["source"], row["case_id"]): row["fold"] for row in rows}
    return found


def _count_flags(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    counts = Counter(flag for row in rows for flag in row["flags"])
    return [{"code": code, "count": count, "meaning": FLAGS[code]} for code, count in counts.most_common()]


def _count_rejected(catalog: "Catalog") -> list[dict[str, Any]]:
    """Count rejected items by source and reason; their messages name files and are not shown."""
    rows = catalog.rejected.select(["source", "code"]).to_pylist()
    counts = Counter((row["source"], row["code"] if row["code"] in REASONS else OTHER) for row in rows)
    return [
        {"source": source, "code": code, "count": count, "meaning": REASONS.get(code, "a reason of another version")}
        for (source, code), count in sorted(counts.items())
    ]


def _describe_sources(catalog: "Catalog") -> list[dict[str, Any]]:
    """Licence and citation of the sources that have cases in the catalog."""
    used = set(catalog.parts("cases"))
    return [row for row in catalog.sources.to_pylist() if row["source"] in used]


def _data(selection: Selection, findings: Sequence[Mapping[str, Any]], rounds: Sequence[Any]) -> dict[str, Any]:
    """The data for the script of the page."""
    rows = [selection.released.rows[place] for place in selection.shown]
    catalog = selection.catalog
    protocols = [str(catalog.metadata(run).get("protocol") or "") for run in selection.runs]
    flags = {flag for row in rows for flag in row["flags"]}
    return {
        "columns": COLUMNS,
        "cases": [[row[name] for name in COLUMNS] for row in rows],
        "flags": {code: FLAGS[code] for code in sorted(flags)},
        "findings": [
            [place, f["severity"], f["check"], f["detail"]] for f in findings for _, place in f["cases"] if place >= 0
        ],
        "runs": name_runs(selection.runs, protocols, public=selection.public),
        "rounds": rounds,
        "public": selection.public,
    }


def _round_series(selection: Selection) -> list[dict[str, Any]]:
    """The scores of each run of rounds and annotator: for each listed case, a list over the rounds."""
    catalog, places = selection.catalog, {place: n for n, place in enumerate(selection.shown)}
    runs = catalog.parts("rounds")
    about = [json.loads(catalog.part_metadata("rounds", run).get(METADATA_KEY, b"{}")) for run in runs]
    names = name_runs(runs, [str(facts.get("protocol") or "") for facts in about], public=selection.public)
    found = []
    for run, name in zip(runs, names, strict=True):
        columns = ["annotator", "case_id", "source", "round", *SCORES]
        table = catalog.table("rounds", run).select(columns).to_pylist()
        annotators = sorted({row["annotator"] or "" for row in table} - {"simulated"})
        for annotator in sorted({row["annotator"] for row in table}, key=lambda a: (a != "simulated", a or "")):
            who = "" if annotator == "simulated" else f", annotator {annotators.index(annotator or '') + 1}"
            curves: dict[int, list[dict[str, Any]]] = {}
            for row in table:
                place = selection.released.find(row["case_id"], row["source"])
                if row["annotator"] == annotator and place is not None and place in places:
                    curves.setdefault(places[place], []).append(row)
            for rows in curves.values():
                rows.sort(key=lambda row: row["round"])
            scores = {
                score: [[_short(row[score]) for row in rows] for _, rows in sorted(curves.items())] for score in SCORES
            }
            found.append({"name": name + who, "cases": sorted(curves), "scores": scores})
    return found


def _short(value: float | None) -> float | None:
    value = _finite(value)
    return None if value is None else float(f"{value:.4g}")


def _picture(picture: Picture | None) -> "Markup":
    """A picture and its overlay in the form that the script reads."""
    webp, overlay = picture or (b"", '{"note":"it has no picture"}')
    content = json.loads(overlay)
    if webp:
        content["src"] = "data:image/webp;base64," + base64.b64encode(webp).decode()
    return as_json(content)
