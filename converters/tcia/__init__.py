"""PET/CT studies as DICOM from TCIA: the FDG and the PSMA collection."""

from converters.tcia.tcia_source import FDG, PSMA

__all__ = ["FDG", "PSMA"]
