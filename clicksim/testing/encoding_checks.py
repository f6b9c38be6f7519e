"""Check what an encoding promises, on random prompts."""

import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import ImageError
from clicksim.geometry import Grid
from clicksim.guidance import ENCODINGS, Encoding, encode
from clicksim.guidance.encoding_settings import COMMON, DrawingPlan, in_voxels
from clicksim.prompts import Click, Prompts, Scribble
from clicksim.settings import check_value
from clicksim.testing.damaged_trees import promise

SPACINGS = ((2.0, 2.0, 3.0), (1.0, 1.0, 1.0), (1.3, 0.7, 4.0))
CLOSE = 1e-5


def check_encoding(name: str, *, seeds: int = 6) -> None:
    """Try everything that an encoding promises.

    - It has a formula (the docstring of `draw`), and each setting has a meaning and an allowed default.
    - It can be sent to a worker process.
    - Without prompts a channel is 0; every value is finite, with lengths in mm and in voxels.
    - A patch equals the same part of the whole volume. An encoding that reads the image also draws a patch with the
      image of that patch alone, whichever prompts are outside it.
    - The order of the prompts changes nothing.
    - Beyond `reach` the channel is 0, and a stencil equals the channels of its single prompts, merged.

    Args:
        name: The name of its entry point.
        seeds: How many random cases are tried.

    Raises:
        AssertionError: A promise is broken.
    """
    encoding = ENCODINGS.find(name)
    _is_described(encoding)
    try:
        pickle.dumps(encoding)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        told = "the encoding cannot be sent to a worker; define its functions at the top level of a module"
        raise AssertionError(f"{told} ({error})") from error
    for seed in range(seeds):
        prompts, image = _random_case(seed)
        for given in _ways_to_give_lengths(encoding):
            _draws_soundly(encoding, prompts, image, given)
        _reaches_so_far(encoding, prompts, image)


def _is_described(encoding: Encoding) -> None:
    promise((encoding.draw.__doc__ or "").strip(), "`draw` has no docstring with the formula")
    for name, setting in encoding.settings.items():
        promise(name not in COMMON, f"{name} is a setting of all encodings; give yours another name")
        promise(setting.meaning, f"the setting {name} has no meaning")
        promise(setting.kind != "length" or name.endswith("_mm"), f"the name of the length {name} must end in _mm")
        promise(setting.default is not None, f"the setting {name} has no default")
        promise(check_value(name, setting, setting.default) == setting.default, f"the default of {name} is not allowed")


def _random_case(seed: int) -> tuple[Prompts, NDArray[np.float32]]:
    draws = np.random.default_rng(seed)
    shape = tuple(int(n) for n in draws.integers(3, 13, 3))
    grid = Grid.from_spacing(shape, SPACINGS[seed % len(SPACINGS)])
    clicks = [Click(_voxel(draws, shape), bool(draws.integers(2))) for _ in range(seed % 4)]
    stroke = Scribble(tuple(_voxel(draws, shape) for _ in range(4)), True)
    return Prompts((*clicks, stroke), grid), draws.gamma(2.0, 2.0, shape).astype(np.float32)


def _voxel(draws: np.random.Generator, shape: tuple[int, ...]) -> tuple[int, int, int]:
    i, j, k = (int(draws.integers(n)) for n in shape)
    return (i, j, k)


def _ways_to_give_lengths(encoding: Encoding) -> Iterator[dict[str, Any]]:
    yield {}
    lengths = [name for name, setting in encoding.settings.items() if setting.kind == "length"]
    if lengths:
        yield {in_voxels(name): encoding.settings[name].default / 2 for name in lengths}


def _drawn(encoding: Encoding, prompts: Prompts, image: NDArray[Any], **given: Any) -> NDArray[np.float32]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        shape = given.pop("shape", prompts.grid.shape)
        return encode(prompts, shape, encoding=encoding.name, image=image if encoding.needs_image else None, **given)


def _draws_soundly(encoding: Encoding, prompts: Prompts, image: NDArray[Any], given: dict[str, Any]) -> None:
    whole = _drawn(encoding, prompts, image, **given)
    told = f"with {given or 'its defaults'}"
    promise(np.isfinite(whole).all(), f"a channel has values that are not finite, {told}")
    nothing = Prompts((), prompts.grid)
    promise(not _drawn(encoding, nothing, image, **given).any(), f"a channel without prompts is not 0, {told}")
    again = Prompts(prompts.items[::-1], prompts.grid)
    promise(_close(_drawn(encoding, again, image, **given), whole), f"the order of the prompts matters, {told}")
    start = [n // 3 for n in prompts.grid.shape]
    shape = [n - a for n, a in zip(prompts.grid.shape, start, strict=True)]
    patch = _drawn(encoding, prompts, image, shape=shape, origin=start, **given)
    part = whole[(slice(None), *(slice(a, None) for a in start))]
    promise(_close(patch, part), f"a patch is not the same part of the whole, {told}")
    if encoding.needs_image:
        _draws_with_a_patch_of_the_image(encoding, prompts, image, given)


def _draws_with_a_patch_of_the_image(
    encoding: Encoding, prompts: Prompts, image: NDArray[Any], given: dict[str, Any]
) -> None:
    """As training and prediction do: the middle third of the image, with prompts on all sides of it."""
    low = [n // 3 for n in image.shape]
    high = [max(a + 1, n - a) for a, n in zip(low, image.shape, strict=True)]
    patch = image[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    try:
        drawn = _drawn(encoding, prompts, patch, shape=patch.shape, origin=low, **given)
    except (ImageError, IndexError) as error:
        raise AssertionError(f"an image of the patch alone is not enough: {error}") from error
    promise(np.isfinite(drawn).all(), "with an image of the patch alone a channel has values that are not finite")


def _reaches_so_far(encoding: Encoding, prompts: Prompts, image: NDArray[Any]) -> None:
    with_defaults = DrawingPlan(encoding, encoding.defaults)
    reach = with_defaults.reach(prompts.grid.spacing)
    promise(not encoding.stencil or np.isfinite(reach).all(), "a stencil needs a finite reach")
    ones = [Prompts((Click(voxel, True),), prompts.grid) for voxel in set(map(tuple, prompts.foreground.tolist()))]
    singles = [_drawn(encoding, one, image)[0] for one in ones]
    for one, channel in zip(ones, singles, strict=True):
        away = np.abs(np.argwhere(channel) - one.foreground[0])
        promise((away <= np.ceil(reach)).all(), f"a prompt changes voxels beyond its reach of {reach} voxels")
    if encoding.stencil:
        adds = encoding.defaults.get("merge") == "add"
        merged = np.sum(singles, axis=0) if adds else np.max(singles, axis=0)
        promise(_close(_drawn(encoding, prompts, image)[0], merged), "the prompts of a stencil do not merge")


def _close(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return bool(np.allclose(one, other, rtol=CLOSE, atol=CLOSE))
