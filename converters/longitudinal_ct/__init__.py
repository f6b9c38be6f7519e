"""Longitudinal CT of autoPET: two time points of each patient, and a table of lesions."""

from converters.longitudinal_ct.longitudinal_source import SOURCE

__all__ = ["SOURCE"]
