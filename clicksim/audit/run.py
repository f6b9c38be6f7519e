"""All checks of an audit, one after another."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from clicksim.audit import leakage, outliers
from clicksim.audit.catalog_checks import check_catalog, check_unlisted
from clicksim.catalog.store import Catalog
from clicksim.findings import Finding, sort_findings

AuditCheck = Callable[[Catalog], Iterator[Finding]]

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
    "unlisted": check_unlisted,
}
SHARED = {"folds", "prompts"}
"""Checks of `clicksim catalog check` that the audit makes itself."""


def audit_catalog(catalog: Catalog) -> list[Finding]:
    """Everything in the tables of a catalog that could spoil a result, worst first.

    The findings of `check_catalog` are included, as errors of the check `catalog`.
    """
    found = [finding for check in AUDIT_CHECKS.values() for finding in check(catalog)]
    found += [as_audit_finding(fault) for fault in check_catalog(catalog) if fault.check not in SHARED]
    return sort_findings(found)


def as_audit_finding(fault: Finding) -> Finding:
    """A finding of `clicksim catalog check` as one of the audit's check `catalog`."""
    return replace(fault, check="catalog", detail=f"{fault.check}: {fault.detail}")


def checks_made(*, read_data: bool) -> dict[str, str]:
    """The checks of an audit, each with the first line of its docstring."""
    checks: dict[str, Callable[..., object]] = {"catalog": check_catalog, **AUDIT_CHECKS}
    if read_data:
        checks["near-duplicate"] = leakage.check_near_duplicates
    said = {name: (check.__doc__ or "").strip().split("\n")[0] for name, check in checks.items()}
    return said | {"catalog": "The keys, files, codes and sums that `clicksim catalog check` looks at."}
