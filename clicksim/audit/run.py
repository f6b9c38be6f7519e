"""All checks of an audit, one after another."""

from collections.abc import Callable, Iterator

from clicksim.audit import leakage, outliers
from clicksim.audit.audit_findings import AuditFinding, sort_findings
from clicksim.audit.catalog_checks import check_catalog, check_data
from clicksim.audit.fingerprints import take_fingerprint
from clicksim.catalog.store import Catalog

AuditCheck = Callable[[Catalog], Iterator[AuditFinding]]

AUDIT_CHECKS: dict[str, AuditCheck] = {
    "patient-split": leakage.check_patient_split,
    "study-twice": leakage.check_study_twice,
    "same-label": leakage.check_same_label,
    "same-lesions": leakage.check_same_lesions,
    "geometry": outliers.check_geometry,
    "uptake": outliers.check_uptake_outliers,
    "lesions": outliers.check_lesion_outliers,
    "diagnosis": outliers.check_diagnosis,
    "threshold": outliers.check_threshold,
    "defaced": outliers.check_defaced,
    "points": outliers.check_points,
    "prompts": outliers.check_prompt_outliers,
}
SEEN_TWICE = {"folds", "prompts"}  # checks of `clicksim catalog check` that the audit makes itself, with cases


def audit_catalog(
    catalog: Catalog, *, read_data: bool = False, progress: Callable[[int, int], None] | None = None
) -> list[AuditFinding]:
    """Everything about a catalog that could spoil a result, worst first.

    What `check_catalog` finds is in it, as errors of the check `catalog`.

    Args:
        catalog: An open catalog.
        read_data: Read every image as well: near-duplicates, and labels that differ from their row.
        progress: Told after each case that is read.
    """
    found = [finding for check in AUDIT_CHECKS.values() for finding in check(catalog)]
    faults = check_catalog(catalog)
    if read_data:  # each image once, for both
        prints: list[leakage.Print] = []
        faults += check_data(catalog, progress, lambda row, image: prints.append((row, take_fingerprint(image))))
        found += leakage.check_near_duplicates(catalog, prints)
    for fault in faults:
        if fault.check not in SEEN_TWICE:
            cases = (fault.case_id,) if fault.case_id else ()
            found.append(AuditFinding("error", "catalog", cases, f"{fault.check}: {fault.detail}"))
    return sort_findings(found)


def checks_made(*, read_data: bool) -> dict[str, str]:
    """The checks of an audit, each with the first sentence of what it says about itself."""
    checks: dict[str, Callable[..., object]] = {"catalog": check_catalog, **AUDIT_CHECKS}
    if read_data:
        checks["near-duplicate"] = leakage.check_near_duplicates
    said = {name: (check.__doc__ or "").strip().split("\n")[0] for name, check in checks.items()}
    return said | {"catalog": "Keys, files, codes and sums that `clicksim catalog check` looks at."}
