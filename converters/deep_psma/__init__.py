"""DEEP-PSMA: one FDG and one PSMA scan of each patient."""

from converters.deep_psma.deep_psma_source import SOURCE

__all__ = ["SOURCE"]
