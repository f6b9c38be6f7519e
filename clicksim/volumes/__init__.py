"""Image files: the only reader and writer of image arrays.

    read_image, read_label     .nii, .nii.gz, .mha to a Volume: the array as stored, and its grid
    read_grid                  the grid alone, from the header
    write_image                a new file, complete or not there at all
    case_id_of                 the file name without its ending

Arrays come in the axes of the file, `i` fastest in memory (Fortran order), as nibabel gives them. Geometry is
parsed by nibabel and SimpleITK; the voxels are read here, since that is twice as fast, and since SimpleITK
takes a damaged compressed stream without a word. What a file promises is compared with its size before any
memory is asked for, and compressed streams are read to their end, so that their checksum is known to match.
"""

from clicksim.volumes.header import EXTENSIONS
from clicksim.volumes.image import Volume, case_id_of, read_grid, read_image, read_label, write_image

__all__ = [
    "EXTENSIONS",
    "Volume",
    "case_id_of",
    "read_grid",
    "read_image",
    "read_label",
    "write_image",
]
