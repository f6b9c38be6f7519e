"""Find the case of an image that has lost its name, by its voxels."""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from clicksim.catalog.store import Catalog
from clicksim.volumes import digest_voxels

DIGESTS = {"label_digest": "label", "pet_digest": "pet", "ct_digest": "ct"}
"""Columns of `cases`, and the roles of the images that they digest."""


@dataclass(frozen=True)
class KnownImage:
    """An image of a catalog.

    Attributes:
        source, case_id: Its case.
        role: `label`, `pet` or `ct`.
        is_reversed: The axes of the array are k, j, i of the catalog's image.
    """

    source: str
    case_id: str
    role: str
    is_reversed: bool


def find_image(catalog: Catalog, array: NDArray[Any]) -> list[KnownImage]:
    """Find the cases of a catalog that have an image with these voxels.

    The file format, the type and the grid do not count; see `clicksim.volumes.digest_voxels`. Axes may be in the order
    of the catalog or reversed, as viewers send them. Empty labels of one shape are all equal. Images that the
    conversion did not read, such as PET and CT with the option `labels_only`, are not found.

    Args:
        catalog: An open catalog.
        array: `(I, J, K)` or `(K, J, I)`.

    Returns:
        In the order of the catalog; empty if no image is equal.
    """
    wanted = {digest_voxels(array.T): True, digest_voxels(array): False}
    rows = catalog.cases.select(["source", "case_id", *DIGESTS]).to_pylist()
    return [
        KnownImage(row["source"], row["case_id"], role, wanted[row[column]])
        for row in rows
        for column, role in DIGESTS.items()
        if row[column] in wanted
    ]
