"""Whether a catalog can be trusted: that it holds what it says, and that nothing in it would spoil a result."""

from clicksim.audit.audit_findings import AuditFinding, findings_table
from clicksim.audit.catalog_checks import check_catalog, check_cohort
from clicksim.audit.page import write_audit_page
from clicksim.audit.run import audit_catalog, checks_made

__all__ = [
    "AuditFinding",
    "audit_catalog",
    "check_catalog",
    "check_cohort",
    "checks_made",
    "findings_table",
    "write_audit_page",
]
