"""A package of somebody else, as an installation leaves it: modules, and entry points in its metadata."""

from collections.abc import Mapping
from pathlib import Path

import pytest

SOURCE = '''"""What a laboratory adds."""

import numpy as np

from clicksim.guidance import Encoding
from clicksim.prompts.kinds import as_voxel
from clicksim.settings import Setting


def draw_cube(canvas, seeds, plan):
    """1 within `half` of a prompt along every axis, else 0."""
    half = [int(n + 1e-9) for n in plan.voxels("half", seeds.spacing)]
    canvas.stamp(np.ones([2 * n + 1 for n in half]), half, seeds)


def reach_cube(plan, spacing):
    return plan.voxels("half", spacing)


def draw_bright(canvas, seeds, plan, image):
    """1 where the image is at least as bright as at the darkest prompt of the polarity, else 0."""
    inside = seeds.near(image.start, image.stop)
    if len(inside.voxels):
        values, start = image.box(canvas.origin, canvas.origin + canvas.shape)
        canvas.raise_to((values >= image.at(inside.voxels).min()).astype(np.float32), start)


HALF = Setting("length", "half of an edge", default=5.0, low=0, high=1000, unit="mm")
CUBE = Encoding("lab-cube", draw_cube, {"half_mm": HALF}, stencil=True, reach=reach_cube)
BRIGHT = Encoding("lab-bright", draw_bright, {}, needs_image=True)


def top_slice(component, spacing, draws):
    "Voxels from the last slice to the first, in random order within a slice."
    voxels = draws.permutation(component.voxels)
    for n in np.argsort(-voxels[:, 2], kind="stable"):
        yield as_voxel(voxels[n])


def middle_column(section, settings, draws):
    "The longest column of the section."
    pixels = section.pixels
    return pixels[pixels[:, 1] == np.bincount(pixels[:, 1]).argmax()]
'''
ENTRIES = {
    "clicksim.encodings": {"lab-cube": "the_lab:CUBE", "lab-bright": "the_lab:BRIGHT"},
    "clicksim.strategies": {"clicks.lab-top": "the_lab:top_slice", "scribbles.lab-column": "the_lab:middle_column"},
}


def install(
    folder: Path,
    patch: pytest.MonkeyPatch,
    entries: Mapping[str, Mapping[str, str]] = ENTRIES,
    source: str = SOURCE,
    name: str = "the_lab",
) -> None:
    """Put a package with a module of its name and these entry points on the path."""
    site = folder / name
    metadata = site / f"{name}-1.2.dist-info"
    metadata.mkdir(parents=True)
    (site / f"{name}.py").write_text(source, encoding="utf-8")
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.2\n")
    groups = [f"[{group}]\n" + "".join(f"{n} = {v}\n" for n, v in named.items()) for group, named in entries.items()]
    (metadata / "entry_points.txt").write_text("\n".join(groups), encoding="utf-8")
    patch.syspath_prepend(str(site))
