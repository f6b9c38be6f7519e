"""Write phantoms as the publishers' source trees, with the irregularities of the real ones.

    write_fdat               nnU-Net folders, clinical tables, folds, fingerprint
    write_deep_psma          two tracers per patient, native CT, thresholds, registrations, organ labels
    write_longitudinal_ct    baseline and follow-up CT, instance masks, lesion tables, points
    write_tcia               DICOM of two collections: PET, CT and SEG, one file per slice

They replace downloads of hundreds of gigabytes in tests and in the demo. Each is converted without a rejection.
With `spoil`, one broken case of each kind is added, and `SourceTree.spoiled` gives the expected reason for each.
"""

from clicksim.phantom.layout_deep_psma import write_deep_psma
from clicksim.phantom.layout_fdat import write_fdat
from clicksim.phantom.layout_longitudinal_ct import write_longitudinal_ct
from clicksim.phantom.layout_tcia import write_tcia
from clicksim.phantom.phantom_trees import SMALL_SHAPE, SMALL_SPACING, SourceTree

__all__ = [
    "SMALL_SHAPE",
    "SMALL_SPACING",
    "SourceTree",
    "write_deep_psma",
    "write_fdat",
    "write_longitudinal_ct",
    "write_tcia",
]
