"""Checks of a catalog: that it holds what it says, and that nothing in it would spoil a result."""

from clicksim.audit.catalog_checks import check_catalog, check_cohort
from clicksim.audit.page import write_audit_page, write_audit_table
from clicksim.audit.run import audit_catalog, checks_made

__all__ = [
    "audit_catalog",
    "check_catalog",
    "check_cohort",
    "checks_made",
    "write_audit_page",
    "write_audit_table",
]
