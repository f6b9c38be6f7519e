"""Prompts from files: one case, read, checked and simulated."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from clicksim.errors import SettingError
from clicksim.lesions import Instances
from clicksim.prompts import Prompts
from clicksim.protocols import load_protocol
from clicksim.simulate.annotators.people import Annotator, Person, annotate
from clicksim.simulate.clicks.click_rules import simulate_clicks
from clicksim.simulate.corrections import correct
from clicksim.simulate.scribbles.scribble_rules import simulate_scribbles
from clicksim.volumes import Volume, case_id_of, read_label
from clicksim.volumes.case import read_pet


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
        ImageError: A file that cannot be read; a PET that is a CT or a label, see `read_pet`.
        SettingError: As `clicksim.simulate_clicks`.
    """
    name = case_id_of(label) if case_id is None else case_id
    mask = read_label(label)
    uptake, doubts = (None, ()) if pet is None else read_pet(pet)
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
        ImageError: A file that cannot be read; a PET that is a CT or a label, see `read_pet`.
    """
    name = case_id_of(label) if case_id is None else case_id
    truth = read_label(label)
    mask = None if prediction is None else read_label(prediction)
    uptake, doubts = (None, ()) if pet is None or annotator is None else read_pet(pet)
    for kind, volume in (("prediction", mask), ("PET", uptake)):
        if volume is not None:
            truth.grid.check_same(volume.grid, ("label", kind), where=f"case {name}")
    shared = {"spacing": truth.grid.spacing, "protocol": protocol, "seed": seed, "case_id": name, **settings}
    if mask is None:
        prompts = simulate_scribbles(truth.array, instances=instances, **shared)
    elif instances != "auto":
        raise SettingError("instances has no effect with a prediction: errors are split into components")
    else:
        mended = load_protocol(protocol).tables.get("scribbles", {}).get("rule") == "revised"
        person = annotator if mended else None  # the published loop looks for all errors
        seen = _seen_truth(truth, mask, uptake, person, name, seed)
        prompts = correct(mask.array, seen, round=round, **shared)
    prompts = replace(prompts, grid=truth.grid, notes=(*prompts.notes, *doubts))
    return prompts if annotator is None else _by_person(prompts, truth, uptake, annotator, instances, seed)


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


def _array(volume: Volume | None) -> Any:
    return None if volume is None else volume.array
