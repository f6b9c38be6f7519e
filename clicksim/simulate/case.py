"""Prompts from files: one case, read, checked and simulated."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from clicksim.errors import ImageError, SettingError
from clicksim.lesions import Instances
from clicksim.prompts import Prompts
from clicksim.protocols import load_protocol
from clicksim.simulate.annotators import Annotator, Person, annotate
from clicksim.simulate.clicks import simulate_clicks
from clicksim.simulate.corrections import correct
from clicksim.simulate.scribbles import simulate_scribbles
from clicksim.volumes import EXTENSIONS, Volume, case_id_of, read_image, read_label


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
        ImageError: A file that cannot be read.
        SettingError: As `clicksim.simulate_clicks`.
    """
    name = case_id_of(label) if case_id is None else case_id
    mask = read_label(label)
    uptake = None if pet is None else read_image(pet)
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
    prompts = replace(prompts, grid=mask.grid)
    return prompts if annotator is None else _by_person(prompts, mask, uptake, annotator, instances)


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
        ImageError: A file that cannot be read.
    """
    name = case_id_of(label) if case_id is None else case_id
    truth = read_label(label)
    mask = None if prediction is None else read_label(prediction)
    uptake = None if pet is None or annotator is None else read_image(pet)
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
    prompts = replace(prompts, grid=truth.grid)
    return prompts if annotator is None else _by_person(prompts, truth, uptake, annotator, instances)


def _seen_truth(
    truth: Volume, prediction: Volume, uptake: Volume | None, annotator: Annotator | None, case_id: str, seed: int
) -> NDArray[Any]:
    """The truth in which the errors are looked for: a person overlooks those in lesions that they miss."""
    if annotator is None:
        return truth.array
    person = Person.before(annotator, truth.array, truth.grid, uptake=_array(uptake), case_id=case_id, seed=seed)
    return person.seen_truth(truth.array, prediction.array)


def _by_person(
    prompts: Prompts, label: Volume, uptake: Volume | None, annotator: Annotator, instances: Instances
) -> Prompts:
    """The prompts as the annotator makes them, with the draws of the prompts' own seed."""
    published = prompts.settings.get("rule") == "published"
    rule: Instances = "touching" if published else instances
    seed = 42 if prompts.seed is None else prompts.seed
    return annotate(prompts, label.array, annotator, uptake=_array(uptake), instances=rule, seed=seed)


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
        raise ImageError(f"several labels of one case in {folder}: {', '.join(twice[:10])}; keep one of each")
    return found


def find_companion(label: Path, folder: str | Path, channel: str = "_0001") -> Path:
    """The image of a case in another folder: `<case>_0001` as nnU-Net names the PET, or the label's own name.

    Raises:
        ImageError: Neither is there.
    """
    name = case_id_of(label)
    candidates = [Path(folder) / f"{name}{suffix}{ending}" for suffix in (channel, "") for ending in EXTENSIONS]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    stems = " and ".join(dict.fromkeys([f"{name}{channel}", name]))
    raise ImageError(f"no image of case {name} in {folder}: looked for {stems} with {', '.join(EXTENSIONS)}")


def _array(volume: Volume | None) -> Any:
    return None if volume is None else volume.array
