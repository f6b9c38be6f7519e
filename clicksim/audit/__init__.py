"""Whether a catalog can be trusted."""

from clicksim.audit.check import check_catalog, check_cohort

__all__ = ["check_catalog", "check_cohort"]
