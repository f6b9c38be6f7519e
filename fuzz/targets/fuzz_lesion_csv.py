"""Lesion tables of the longitudinal CT data, CSV."""

import tempfile
from pathlib import Path

from clicksim.phantom.layouts import write_longitudinal_ct
from converters.longitudinal_ct.lesion_csv import Presence, find_topology, link_lesions, read_lesion_csv


def seeds() -> list[bytes]:
    """The tables of three phantom patients in the columns of two releases."""
    made = []
    for release in ("v1", "v3"):
        with tempfile.TemporaryDirectory() as folder:
            tree = write_longitudinal_ct(folder, release=release)
            made += [file.read_bytes() for file in sorted(tree.folder.glob("inputsTr/*.csv"))]
    return made


def read(data: bytes, folder: Path) -> None:
    """Read the table, and find out what became of each lesion."""
    file = folder / "0a09c8844b.csv"
    file.write_bytes(data)
    table = read_lesion_csv(file)
    for row in table.rows:
        for cog in (row.cog_bl, row.cog_fu, row.cog_propagated, row.cog_backpropagated):
            assert (cog.index is None) == (cog.voxel is None)
    bl, fu = Presence(frozenset({1, 2, 3, 5, 7}), True), Presence(frozenset({1, 3, 4, 6, 7}), True)
    topology = find_topology(table.rows, bl, fu)
    link_lesions(topology, dict.fromkeys(bl.ids, "bl"), dict.fromkeys(fu.ids, "fu"))
