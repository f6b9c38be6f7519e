"""The release of autoPET on fdat: NIfTI images with tables of folds and clinical data."""

from converters.fdat.fdat_source import SOURCE

__all__ = ["SOURCE"]
