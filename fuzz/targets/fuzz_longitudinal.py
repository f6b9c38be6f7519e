"""Split (JSON) and demographics (CSV) of the longitudinal CT data."""

import tempfile
from pathlib import Path

from clicksim.catalog.source import Context
from clicksim.phantom.layouts import write_longitudinal_ct
from converters.longitudinal_ct.longitudinal_files import plan

PATIENT = "0a09c8844b"


def seeds() -> list[bytes]:
    """Of three phantom patients."""
    with tempfile.TemporaryDirectory() as folder:
        tree = write_longitudinal_ct(folder)
        names = ("data_split.json", "demographics.csv")
        return [(tree.folder / name).read_bytes() for name in names]


def read(data: bytes, folder: Path) -> None:
    """Plan a source with this split, or with these demographics."""
    name = "data_split.json" if data.lstrip()[:1] in (b"{", b"[", b'"') else "demographics.csv"
    (folder / name).write_bytes(data)
    (folder / "inputsTr").mkdir()
    (folder / f"inputsTr/{PATIENT}.csv").write_text("lesion_id\n1\n", encoding="utf-8")
    units, found = plan(Context(folder, folder, "longitudinal_ct", {}))
    assert PATIENT in {unit.key for unit in units}
    for row in found.rejected:
        assert 0 < len(row["message"].encode()) < 4000
