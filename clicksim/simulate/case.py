"""Prompts from files: one case, read, checked and simulated."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clicksim.arrays import flat_view
from clicksim.errors import ImageError, SettingError, UptakeError, up_to_ten
from clicksim.lesions import Instances
from clicksim.prompts import Prompts
from clicksim.protocols import load_protocol
from clicksim.simulate.annotators import Annotator, Person, annotate
from clicksim.simulate.clicks import simulate_clicks
from clicksim.simulate.corrections import correct
from clicksim.simulate.scribbles import simulate_scribbles
from clicksim.volumes import EXTENSIONS, Volume, case_id_of, read_image, read_label

SAMPLE = 1 << 14  # voxels that are looked at: a look, not a pass
NO_PET = -100  # SUV and Bq/ml have noise below 0; air and lung of a CT lie far below this
CT_SHARE = 0.02  # of the voxels below NO_PET: a CT has some ten times that, ringing at the edges of a PET far less


def simulate_case(
    label: str | Path,
    *,
    pet: str | Path | None = None,
    organs: str | Path | None = None,
    case_id: str | None = None,
    instances: Instances = "auto",
    protocol: str = "autopet-iv@2",
    seed: int = 42,
    annotator: Annotator | None = None,
    **settings: Any,
) -> Prompts:
    """The clicks of one case from its image files; see `clicksim.simulate_clicks` for the rule.

    Args:
        label: Mask or instance map.
        pet: Uptake on the grid of the label.
        organs: Organ labels on the grid of the label.
        case_id: By default the label's file name without its ending.
        instances, protocol, seed, **settings: As `clicksim.simulate_clicks` takes them.
        annotator: A model of the person, who changes the clicks of the rule; None for the clicks of the rule.

    Returns:
        Prompts on the grid of the label, affine included.

    Raises:
        GeometryError: An image on another grid than the label.
        ImageError: A file that cannot be read; a PET that is a CT or a label, see `read_uptake`.
        SettingError: As `clicksim.simulate_clicks`.
    """
    name = case_id_of(label) if case_id is None else case_id
    mask = read_label(label)
    uptake, doubts = (None, ()) if pet is None else read_uptake(pet)
    regions = None if organs is None else read_label(organs)
    for kind, volume in (("PET", uptake), ("organ mask", regions)):
        if volume is not None:
            mask.grid.check_same(volume.grid, ("label", kind), where=f"case {name}")
    prompts = simulate_clicks(
        mask.array,
        uptake=_array(uptake),
        spacing=mask.grid.spacing,
        instances=instances,
        protocol=protocol,
        seed=seed,
        case_id=name,
        organs=_array(regions),
        **settings,
    )
    prompts = replace(prompts, grid=mask.grid, notes=(*prompts.notes, *doubts))
    return prompts if annotator is None else _by_person(prompts, mask, uptake, annotator, instances, seed)


def scribble_case(
    label: str | Path,
    *,
    prediction: str | Path | None = None,
    pet: str | Path | None = None,
    case_id: str | None = None,
    instances: Instances = "auto",
    protocol: str = "autopet-v@2",
    seed: int = 42,
    round: int = 0,  # noqa: A002 - the field's word
    annotator: Annotator | None = None,
    **settings: Any,
) -> Prompts:
    """The scribbles of one case from its image files: in and around its lesions, or in a prediction's errors.

    Args:
        label: Mask or instance map.
        prediction: On the grid of the label; None for scribbles from the label alone.
        pet: Uptake on the grid of the label, for the annotator alone.
        case_id: By default the label's file name without its ending.
        instances, protocol, seed, round, **settings: As `simulate_scribbles` and `correct` take them.
        annotator: A model of the person, who changes the strokes of the rule.

    Raises:
        SettingError: As those; `instances` beside a prediction, whose errors are split into components.
        GeometryError: An image on another grid than the label.
        ImageError: A file that cannot be read; a PET that is a CT or a label, see `read_uptake`.
    """
    name = case_id_of(label) if case_id is None else case_id
    truth = read_label(label)
    mask = None if prediction is None else read_label(prediction)
    uptake, doubts = (None, ()) if pet is None or annotator is None else read_uptake(pet)
    for kind, volume in (("prediction", mask), ("PET", uptake)):
        if volume is not None:
            truth.grid.check_same(volume.grid, ("label", kind), where=f"case {name}")
    shared = {"spacing": truth.grid.spacing, "protocol": protocol, "seed": seed, "case_id": name, **settings}
    if mask is None:
        prompts = simulate_scribbles(truth.array, instances=instances, **shared)
    elif instances != "auto":
        raise SettingError("instances has no effect with a prediction: errors are split into components")
    else:
        mended = load_protocol(protocol).tables.get("scribbles", {}).get("rule") == "mended"
        person = annotator if mended else None  # the published loop looks for all errors
        seen = _seen_truth(truth, mask, uptake, person, name, seed)
        prompts = correct(mask.array, seen, round=round, **shared)
    prompts = replace(prompts, grid=truth.grid, notes=(*prompts.notes, *doubts))
    return prompts if annotator is None else _by_person(prompts, truth, uptake, annotator, instances, seed)


def read_uptake(path: str | Path) -> tuple[Volume, tuple[str, ...]]:
    """A PET from its file, and a sentence where it may be none.

    Some ten thousand voxels, evenly spread, are looked at; only where all of them are 0 or 1 is the volume read to
    the end. That is enough for a CT or a label in the place of the PET, and no proof of an SUV.

    Returns:
        The image, and at most one note: values below -100 in less than a fiftieth of the voxels, as resampling may
        leave them in a PET in Bq/ml.

    Raises:
        UptakeError: More than that lies below -100, as in a CT; 0 and 1 alone, of whatever type, as in a mask.
        ImageError: A file that cannot be read.
    """
    volume = read_image(path)
    flat, _ = flat_view(volume.array)
    sample = flat[:: max(1, flat.size // SAMPLE) | 1]  # odd, so that it does not keep to the columns of a grid
    if all(np.isin(part, (0, 1)).all() for part in (sample, flat)) and flat.any() and not flat.all():
        raise UptakeError(f"{path} has the numbers 0 and 1 alone: is this a label? A PET holds SUV")
    share = float(np.mean(sample < NO_PET))
    if share == 0:
        return volume, ()
    found = f"{path} has values down to {float(np.nanmin(sample)):.0f}: is this a CT?"
    if share > CT_SHARE:
        raise UptakeError(f"{found} A PET holds SUV")
    return volume, (f"{found} It was taken for a PET",)


def _seen_truth(
    truth: Volume, prediction: Volume, uptake: Volume | None, annotator: Annotator | None, case_id: str, seed: int
) -> NDArray[Any]:
    """The truth in which the errors are looked for: a person overlooks those in lesions that they miss."""
    if annotator is None:
        return truth.array
    person = Person.before(annotator, truth.array, truth.grid, uptake=_array(uptake), case_id=case_id, seed=seed)
    return person.seen_truth(truth.array, prediction.array)


def _by_person(
    prompts: Prompts, label: Volume, uptake: Volume | None, annotator: Annotator, instances: Instances, seed: int
) -> Prompts:
    """The prompts as the annotator makes them, with the lesions that the rule had."""
    if prompts.settings["rule"] == "published":
        instances = "labels" if prompts.settings.get("per_lesion") else "touching"
    return annotate(prompts, label.array, annotator, uptake=_array(uptake), instances=instances, seed=seed)


def list_labels(folder: str | Path) -> list[Path]:
    """The image files of a folder, by name; hidden files, such as `._x.nii.gz`, are no labels.

    Raises:
        ImageError: The folder cannot be read or has no image, or two files are of one case.
    """
    try:
        paths = sorted(Path(folder).iterdir())
    except OSError as error:
        raise ImageError(f"cannot list the labels: {error.strerror} ({folder})") from error
    found = [path for path in paths if path.name.endswith(EXTENSIONS) and path.name[0] != "." and path.is_file()]
    if not found:
        raise ImageError(f"no label in {folder}: no file there ends in {', '.join(EXTENSIONS)}")
    counts = Counter(map(case_id_of, found))
    twice = [path.name for path in found if counts[case_id_of(path)] > 1]
    if twice:
        raise ImageError(f"several labels of one case in {folder}: {up_to_ten(twice)}; keep one of each")
    return found


def find_companion(label: Path, folder: str | Path, channel: str = "_0001") -> Path:
    """The image of a case in another folder: `<case>_0001` as nnU-Net names the PET, or the label's own name.

    Raises:
        ImageError: Neither is there.
    """
    name = case_id_of(label)
    stems = dict.fromkeys([f"{name}{channel}", name])
    candidates = [Path(folder) / f"{stem}{ending}" for stem in stems for ending in EXTENSIONS]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise ImageError(f"no image of case {name} in {folder}, such as {candidates[0].name}")


def _array(volume: Volume | None) -> Any:
    return None if volume is None else volume.array
