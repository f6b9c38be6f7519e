"""Checks of a catalog: that it holds what it says, and that nothing in it would spoil a result."""

from clicksim.audit.catalog_checks import check_catalog, check_cohort
from clicksim.audit.known_images import KnownImage, find_image
from clicksim.audit.page import write_audit_page, write_audit_table
from clicksim.audit.run import audit_catalog, checks_made

__all__ = [
    "KnownImage",
    "audit_catalog",
    "check_catalog",
    "check_cohort",
    "checks_made",
    "find_image",
    "write_audit_page",
    "write_audit_table",
]
