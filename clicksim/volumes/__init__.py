"""Image files: the only reader and writer of image arrays.

    read_image, read_label     read .nii, .nii.gz or .mha as a Volume: the stored array and its grid
    read_grid                  read only the grid, from the header
    write_image                write a file atomically
    case_id_of                 the file name without its extension
    digest_voxels              digest an image's content, by which it can be found again

Arrays have the axes of the file, with `i` fastest in memory (Fortran order), as in nibabel. nibabel and SimpleITK
parse the geometry. The voxels are read here, because this is twice as fast and because SimpleITK accepts damaged
compressed streams without an error. The size in the header is compared with the size of the file before memory is
allocated. Compressed streams are read to the end, so their checksum is verified.
"""

from clicksim.volumes.content import digest_voxels
from clicksim.volumes.header import EXTENSIONS
from clicksim.volumes.image import Volume, case_id_of, read_grid, read_image, read_label, write_image

__all__ = [
    "EXTENSIONS",
    "Volume",
    "case_id_of",
    "digest_voxels",
    "read_grid",
    "read_image",
    "read_label",
    "write_image",
]
