"""Golden vectors: clicks of every protocol on small volumes made by plain formulas, stored and compared exactly.

`python -m tests.golden` writes them anew. A released protocol never changes, so after a release that command may
add files but must not change one.
"""

from pathlib import Path

import numpy as np

import clicksim
from clicksim.errors import ReferenceAbortError

FOLDER = Path(__file__).parent
SPACING = (2.04, 2.04, 3.0)


def ellipsoid(shape, centre, radii):
    """A mask of the voxels inside an ellipsoid, in voxels."""
    places = np.indices(shape)
    return sum(((places[a] - centre[a]) / radii[a]) ** 2 for a in range(3)) <= 1


def waves(shape):
    """A smooth positive uptake in whole sixty-fourths, so that no platform rounds it otherwise."""
    i, j, k = np.indices(shape)
    return (((7 * i + 3 * j * j + 5 * k * i + 11 * k) % 97) / 64.0).astype(np.float32)


def several():
    """Seven lesions, one thin, one a voxel, one at the border; three hot spots, thick and thin."""
    shape = (30, 26, 24)
    label = np.zeros(shape, dtype=np.uint8)
    for centre, radii in [
        ((6, 6, 6), (4, 3, 2)),
        ((20, 7, 9), (3, 3, 3)),
        ((14, 18, 16), (5, 4, 3)),
        ((0, 22, 4), (3, 2, 2)),
    ]:
        label[ellipsoid(shape, centre, radii)] = 1
    label[24:29, 20, 20] = label[28, 2, 1] = label[2, 2, 20:22] = 1
    uptake = waves(shape) + 9 * label
    uptake[ellipsoid(shape, (24, 14, 4), (2, 2, 2))] = 30
    uptake[10, 2:6, 20] = 25
    uptake[5, 20, 12:15] = 20
    return label, uptake


def instances():
    """Three stored instances: two that touch, one in two parts; the uptake hot beside them."""
    shape = (18, 20, 16)
    label = np.zeros(shape, dtype=np.uint8)
    label[3:8, 4:9, 5:9] = 4
    label[8:12, 4:9, 5:9] = 2
    label[13:16, 12:17, 3:6] = label[13:15, 12:15, 10:13] = 7
    uptake = waves(shape)
    uptake[1:4, 14:17, 11:14] = 12
    uptake[12:14, 2, 14] = 11
    return label, uptake


def many():
    """Thirty-two lesions of a voxel each and twenty-seven hot voxels: more than clicks on both sides."""
    shape = (24, 24, 24)
    label = np.zeros(shape, dtype=np.uint8)
    label[2:24:6, 2:24:6, 6:18:6] = 1
    uptake = waves(shape)
    uptake[0:21:10, 0:21:10, 2:23:10] = 40
    return label, uptake


def empty():
    """No lesion; one hot spot that is thick."""
    label, uptake = np.zeros((16, 16, 16), dtype=np.uint8), waves((16, 16, 16))
    uptake[5:7, 5:8, 9] = 9
    return label, uptake


def abort():
    """Lesions fill most of the volume and the one hot voxel has no inside: the published script stops."""
    label = np.ones((15, 15, 15), dtype=np.uint8)
    label[:, :, 0] = 0
    uptake = np.zeros(label.shape, dtype=np.float32)
    uptake[3, 3, 0] = 1
    return label, uptake


CASES = {"several": several, "instances": instances, "many": many, "empty": empty, "abort": abort}

RUNS = [
    ("autopet-iv@1", 42, {}),
    ("autopet-iv@1", 7, {"n_foreground": 3, "n_background": 5}),
    ("autopet-iv@1", 42, {"center_offset": 2, "edge_offset": 3}),
    ("longitudinal-ct@1", 42, {}),
    ("longitudinal-ct@1", 42, {"per_lesion": True}),
    ("autopet-iv@2", 42, {}),
    (
        "autopet-iv@2",
        7,
        {"lesions": "volume", "strategy": "uniform", "fill": "depth-weighted", "background_fill": "uniform"},
    ),
    ("autopet-iv@2", 42, {"lesions": "all", "strategy": "depth-weighted", "jitter_mm": 4.0, "margin_mm": 2.0}),
    ("autopet-iv@2", 42, {"lesions": "uptake", "strategy": "rim", "fill": "deepest", "suv": 8.0}),
    ("autopet-iv@2", 42, {"background": "shell", "shell_mm": [3.0, 9.0], "margin_mm": 0.0}),
    ("deep-psma@1", 42, {"suv": 11.0}),
    ("autopet-iv@2", 42, {"background": "body", "body_suv": 0.5, "margin_mm": 4.0}),
]


def vectors(name):
    """What every run places on one case, as it is stored."""
    label, uptake = CASES[name]()
    out = []
    for protocol, seed, settings in RUNS:
        run = {"protocol": protocol, "seed": seed, "settings": settings}
        try:
            prompts = clicksim.simulate_clicks(
                label, uptake=uptake, spacing=SPACING, protocol=protocol, seed=seed, case_id=name, **settings
            )
        except ReferenceAbortError:
            out.append(run | {"refused": True})
            continue
        out.append(
            run
            | {
                "tumor": prompts.foreground.tolist(),
                "background": prompts.background.tolist(),
                "lesion": [click.lesion for click in prompts],
                "notes": list(prompts.notes),
            }
        )
    return out
