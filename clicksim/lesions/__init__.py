"""Components and lesions of a mask: sizes, boxes, depths, rims and uptake.

Everything works on the runs of the foreground (`clicksim.kernels.voxel_runs`), so the cost depends on the lesions, not
on the volume. Components are numbered from 1 by their first voxel in the order k, then j, then i (i runs fastest), for
any memory layout of the array. cc3d numbers a Fortran-ordered array in this order, and so do the published clicks.
"""

from clicksim.lesions.components import Component as Component
from clicksim.lesions.components import Components as Components
from clicksim.lesions.find import CONNECTIVITIES as CONNECTIVITIES
from clicksim.lesions.find import INSTANCE_RULES as INSTANCE_RULES
from clicksim.lesions.find import Instances as Instances
from clicksim.lesions.find import connect as connect
from clicksim.lesions.find import find_lesions as find_lesions
from clicksim.lesions.find import flat_in as flat_in
from clicksim.lesions.find import scan_labels as scan_labels
from clicksim.lesions.measure import measure_lesions as measure_lesions
from clicksim.lesions.measure import radius_mm as radius_mm
