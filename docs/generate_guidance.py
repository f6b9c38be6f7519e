"""Writes docs/guidance.md and its pictures: every encoding on the same prompts, with what the linter says of it.

    python docs/generate_guidance.py

Formulas come from the docstrings, settings from their declarations, numbers from a run. Nobody types them.
"""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim import Click, Grid, Prompts, Scribble, encode
from clicksim.guidance import DEFAULTS, MEANING, PRESETS, format_findings, lint
from clicksim.guidance.encodings import ENCODINGS
from clicksim.guidance.findings import worst
from clicksim.guidance.settings import ALL

DOCS = Path(__file__).resolve().parent
PICTURES = DOCS / "pictures"
SHAPE, SPACING = (96, 72, 9), (2.0, 2.0, 3.0)
SLICE, SCALE = 4, 4
FOREGROUND, BACKGROUND = np.array([214, 60, 30]), np.array([30, 90, 200])

INTRO = """# Guidance

A network sees prompts as dense channels. clicksim stores the prompts and draws the channels when they are needed, on
any patch, in any encoding:

```python
channels = clicksim.encode(prompts, shape)  # (2, I, J, K): foreground, background
channels = clicksim.encode(prompts, (128, 128, 128), origin=(40, 52, 210))  # a patch, equal to that part of the whole
channels = clicksim.encode(prompts, shape, encoding="edt-ball", radius_mm=6, out=batch[n, 2:4])
channels = clicksim.encode(prompts, shape, encoding="lesionlocator")  # what a published entry used
```

Lengths are in mm on the grid of the prompts; `radius_vx=2` asks for voxels by name. Where a support ends, the cost
follows the prompts: see the row "guidance channels" of the [benchmarks](benchmarks.md).

`clicksim encode --prompts clicks.json --like pet.nii.gz --encoding edt-ball --out case` writes `case_0002.nii.gz` and
`case_0003.nii.gz` for nnU-Net, in float32. By default nothing but prompts is stored.

All pictures show one slice of the same volume, {shape} voxels of {spacing} mm, with two foreground clicks (one in each
lesion), a background click in the hot organ beside the long lesion, and a background scribble at the top. Left: the
channels over the uptake, foreground in red and background in blue, each as bright as its own peak allows; white points
are the prompts. Right: the value along the row of the long lesion's click, from 0 to 1 (`inverse-distance`: to a
million), with the foreground above and the background below the line.
"""
LINTER = """## The linter

A faulty channel raises no error; the network trains, only worse. `clicksim.guidance.lint(channels, prompts)` and
`clicksim encode --lint` (with `--check FILE` for stored channels) look for the faults that have been published: a peak
that vanishes, a distance that is a delta, an inverted polarity, axes in another order, mirrors and shifts, 8-bit
storage, prompts that are lost, clipped or outweighed, polarities that overlap. Each check ends with `good`, `note`,
`suspect` or `bad`, and the number it rests on.

{examples}

`clicksim.guidance.lint_predictor(predict, channels, prompts)` asks a model again with its guidance zeroed, shuffled,
shifted, with the polarities exchanged, and with one polarity left out. It reports how the mask changes, whether a
prompt's own voxel is predicted as clicked, and whether a background prompt ever adds lesion.

## In other libraries

`clicksim.adapters.monai.EncodePromptsd` is a dictionary transform for MONAI and
`clicksim.adapters.torchio.EncodePrompts` one in the style of TorchIO. Both stand behind the spatial transforms and read
the affine that the image carries, so prompts follow crops, flips, rotations and resampling; deformations are not
followed. `Prompts.crop`, `flip`, `permute`, `pad`, `resample`, `to_grid` and `affine` do the same without either
library.
"""


def main() -> None:
    """Write the page and its pictures."""
    from PIL import Image

    PICTURES.mkdir(exist_ok=True)
    for name in (*DEFAULTS, *PRESETS):
        Image.fromarray(picture(name)).quantize(64).save(PICTURES / file_of(name), optimize=True)
    (DOCS / "guidance.md").write_text(page(), encoding="utf-8")


def page() -> str:
    """The text of docs/guidance.md."""
    shape, spacing = (" x ".join(f"{n:g}" for n in numbers) for numbers in (SHAPE, SPACING))
    parts = [INTRO.format(shape=shape, spacing=spacing), "## Encodings\n"]
    parts += [f"Settings of all of them:\n\n{settings_table(ALL)}"]
    for name, draw in ENCODINGS.items():
        parts += [f"### {name}\n", f"{inspect.getdoc(draw)}\n", f"![{name}](pictures/{file_of(name)})\n"]
        parts += [settings_table(DEFAULTS[name])] if DEFAULTS[name] else []
    parts += ["## Presets\n", "What published entries used, and what the linter says of it on the prompts above.\n"]
    parts += [presets_table()]
    parts += [f"`{name}`:\n\n![{name}](pictures/{file_of(name)})\n" for name in PRESETS]
    parts += [LINTER.format(examples="\n\n".join(map(example, ("autopet-iv", "tutorial-euclidean@1"))))]
    return "\n".join(parts)


def file_of(name: str) -> str:
    """The picture of an encoding or preset."""
    return f"guidance-{name.replace('@', '-')}.png"


def settings_table(settings: dict[str, Any]) -> str:
    """Name, default and meaning."""
    rows = ["| setting | default | meaning |", "| --- | --- | --- |"]
    for key, value in settings.items():
        meaning = MEANING[key.removesuffix("_mm").removesuffix("_vx")]
        rows.append(f"| `{key}` | `{str(value).lower() if isinstance(value, bool) else value}` | {meaning} |")
    return "\n".join(rows) + "\n"


def presets_table() -> str:
    """Encoding, settings, source, and the checks that found a fault."""
    rows = ["| preset | encoding | settings | used by | linter |", "| --- | --- | --- | --- | --- |"]
    for name, preset in PRESETS.items():
        settings = ", ".join(f"`{key}={value}`" for key, value in preset.settings.items())
        findings = [f for f in lint(drawn(name), shown(name)) if f.verdict in ("suspect", "bad")]
        said = ", ".join(dict.fromkeys(f"{f.check} {f.verdict}" for f in findings)) or "good"
        rows.append(f"| `{name}` | {preset.encoding} | {settings} | {preset.source} | {said} |")
    return "\n".join(rows) + "\n"


def example(name: str) -> str:
    """What the linter prints for a preset."""
    findings = [f for f in lint(drawn(name), shown(name)) if f.channel == "foreground"]
    return f"The foreground of `{name}` ({worst(findings)}):\n\n```\n{format_findings(findings)}\n```"


def uptake() -> NDArray[np.float32]:
    """Two lesions, a hot organ beside the longer one, and smooth noise; in SUV."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(5)
    i, j, k = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    body = ((i - 48) / 46) ** 2 + ((j - 36) / 34) ** 2 + 0 * k < 1
    image = np.where(body, 1.0, 0.05) + 0.6 * gaussian_filter(rng.standard_normal(SHAPE), 1.5)
    for (a, b), (p, q), value in (((34, 40), (5, 15), 7), ((68, 22), (4, 4), 4), ((50, 44), (9, 9), 12)):
        image = np.where(((i - a) / p) ** 2 + ((j - b) / q) ** 2 + ((k - SLICE) / 4) ** 2 < 1, image + value, image)
    return np.maximum(gaussian_filter(image, 0.7), 0).astype(np.float32)


def prompts() -> Prompts:
    """Clicks in both lesions and in the organ, and a scribble at the top; the second exchange is the round 1."""
    stroke = tuple((i, 62 + (i - 30) // 12, SLICE) for i in range(30, 62))
    items = (
        Click((34, 40, SLICE), True), Click((68, 22, SLICE), True, round=1),
        Click((50, 44, SLICE), False), Scribble(stroke, False, round=1),
    )  # fmt: skip
    return Prompts(items, Grid.from_spacing(SHAPE, SPACING), "example")


def shown(name: str) -> Prompts:
    """The prompts that an encoding draws."""
    everything = prompts()
    if name in PRESETS and not PRESETS[name].settings.get("background", True):
        return Prompts(tuple(p for p in everything if p.foreground), everything.grid)
    return everything


def drawn(name: str) -> NDArray[np.float32]:
    """The channels of an encoding or preset."""
    return encode(prompts(), SHAPE, encoding=name, image=uptake())


def picture(name: str) -> NDArray[np.uint8]:
    """Channels over the uptake, and the values along one row beside them."""
    channels = drawn(name)
    two = channels if len(channels) == 2 else np.stack([np.maximum(channels[0], 0), np.maximum(-channels[0], 0)])
    grey = 255 - 200 * np.minimum(uptake()[:, :, SLICE] / 10, 1)
    panel = np.repeat(grey[..., None], 3, axis=2)
    tops = two.reshape(2, -1).max(axis=1)
    for channel, top, colour in zip(two, tops, (FOREGROUND, BACKGROUND), strict=True):
        # faint channels are shown as bright as the others; the curve at the right tells them apart
        share = 0.75 * (channel[:, :, SLICE] / top if top > 0 else channel[:, :, SLICE])[..., None]
        panel = panel * (1 - share) + colour * share
    large = panel.repeat(SCALE, 0).repeat(SCALE, 1)
    for voxel in np.concatenate([prompts().foreground, prompts().background]):
        a, b = (int(n) * SCALE + SCALE // 2 for n in voxel[:2])
        large[a - 1 : a + 1, b - 1 : b + 1] = 255
    sheet = np.concatenate([large.transpose(1, 0, 2)[::-1], _curve(name, two)], axis=1)
    return sheet.round().astype(np.uint8)


def _curve(name: str, two: NDArray[np.float32]) -> NDArray[np.float64]:
    """Both channels along the row of the first click."""
    height, middle = SHAPE[1] * SCALE, SHAPE[1] * SCALE // 2
    curve = np.full((height, SHAPE[0] * SCALE // 2, 3), 255.0)
    most = 1e6 if name == "inverse-distance" else 1.0
    for channel, sign, colour in zip(two, (-1, 1), (FOREGROUND, BACKGROUND), strict=True):
        for i, value in enumerate(np.minimum(channel[:, 40, SLICE] / most, 1)):
            end = middle + sign * round(float(value) * (middle - 8))
            low, high = min(middle, end), max(middle, end)
            curve[low : high + 1, i * SCALE // 2 : (i + 1) * SCALE // 2] = colour
    curve[middle - 1 : middle + 1] = 90
    curve[[8, height - 9]] = 190
    curve[:, :2] = 90
    return curve


if __name__ == "__main__":
    main()
