"""Registrations: ITK transforms (`.tfm`) and the JSON of the Grand Challenge platform."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from converters.shared.registration import CHALLENGE_KEY, read_challenge_affine, read_rigid


def seeds() -> list[bytes]:
    """Both kinds of rigid transform, alone and inside a composite one, and the JSON."""
    import SimpleITK

    sitk: Any = SimpleITK
    euler = sitk.Euler3DTransform((1.0, 2.0, 3.0), 0.05, -0.02, 0.01, (4.0, 5.0, 6.0))
    versor = sitk.VersorRigid3DTransform((0.0, 0.0, 1.0), 0.1, (4.0, 5.0, 6.0), (1.0, 2.0, 3.0))
    made = []
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "rigid.tfm")
        for transform in (euler, versor, sitk.CompositeTransform([euler])):
            sitk.WriteTransform(transform, file)
            made.append(Path(file).read_bytes())
    return [*made, json.dumps({CHALLENGE_KEY: np.eye(4).tolist()}).encode()]


def read(data: bytes, folder: Path) -> None:
    """Read it; what begins as JSON is read as such."""
    file = folder / "registration"
    file.write_bytes(data)
    matrix = read_challenge_affine(file) if data.lstrip()[:1] == b"{" else read_rigid(file)
    assert np.all(np.isfinite(matrix))
