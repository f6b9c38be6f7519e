"""Simulate prompts for one case from files."""

from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from clicksim.errors import SettingError
from clicksim.lesions import Instances
from clicksim.prompts import Prompts
from clicksim.protocols import ProtocolName, effective_settings, load_protocol
from clicksim.simulate.annotators.people import Annotator, Person, annotate
from clicksim.simulate.clicks.click_rules import simulate_clicks
from clicksim.simulate.corrections import correct
from clicksim.simulate.scribbles.scribble_rules import simulate_scribbles
from clicksim.volumes import Volume
from clicksim.volumes.case import CaseImages


def click_case(
    case: CaseImages,
    *,
    instances: Instances = "auto",
    protocol: ProtocolName = "autopet-iv@2",
    seed: int = 42,
    annotator: Annotator | None = None,
    **settings: Any,
) -> Prompts:
    """Simulate the clicks of one case; see `clicksim.simulate_clicks` for the rule.

    Args:
        case: Its images: the label and, if available, the PET and the organ labels.
        instances, protocol, seed, **settings: See `clicksim.simulate_clicks`.
        annotator: A model of the person, which changes the clicks of the rule; None for the unchanged clicks.

    Returns:
        Prompts on the grid of the label, including its affine.

    Raises:
        GeometryError: If an image is on another grid than the label.
        ImageError: If a file cannot be read, or the PET is a CT or a label, see `read_pet`.
        SettingError: See `clicksim.simulate_clicks`.
    """
    rules, _ = effective_settings(load_protocol(protocol), "clicks", settings)
    # do not read unused images: over a catalog, reading takes most of the time
    uptake = case.pet if rules.get("n_background", 0) or annotator else None
    organs = case.organs if rules.get("background") == "organ" else None
    prompts = simulate_clicks(
        case.label.array,
        uptake=_array(uptake),
        spacing=case.label.grid.spacing,
        instances=instances,
        protocol=protocol,
        seed=seed,
        case_id=case.case_id,
        organs=_array(organs),
        **settings,
    )
    prompts = replace(prompts, grid=case.label.grid, notes=(*prompts.notes, *case.notes))
    return prompts if annotator is None else _by_person(prompts, case.label, uptake, annotator, instances, seed)


def scribble_case(
    case: CaseImages,
    *,
    instances: Instances = "auto",
    protocol: ProtocolName = "autopet-v@2",
    seed: int = 42,
    round: int = 0,  # noqa: A002 - the usual term
    annotator: Annotator | None = None,
    **settings: Any,
) -> Prompts:
    """Simulate the scribbles of one case: in and around its lesions, or in the errors of its prediction.

    Args:
        case: Its images: the label, the prediction if there is one, and the PET for an annotator.
        instances, protocol, seed, round, **settings: See `simulate_scribbles` and `correct`.
        annotator: A model of the person, which changes the strokes of the rule.

    Raises:
        SettingError: See there; also if `instances` is set with a prediction, whose errors are split into components.
        GeometryError: If an image is on another grid than the label.
        ImageError: If a file cannot be read, or the PET is a CT or a label, see `read_pet`.
    """
    truth, mask = case.label, case.prediction
    uptake = None if annotator is None else case.pet
    shared = {"spacing": truth.grid.spacing, "protocol": protocol, "seed": seed, "case_id": case.case_id, **settings}
    if mask is None:
        prompts = simulate_scribbles(truth.array, instances=instances, **shared)
    elif instances != "auto":
        raise SettingError("instances has no effect with a prediction: errors are split into components")
    else:
        revised = load_protocol(protocol).tables.get("scribbles", {}).get("rule") == "revised"
        person = annotator if revised else None  # the published loop uses all errors
        seen = _seen_truth(truth, mask, uptake, person, case.case_id, seed)
        prompts = correct(mask.array, seen, round=round, **shared)
    prompts = replace(prompts, grid=truth.grid, notes=(*prompts.notes, *case.notes))
    return prompts if annotator is None else _by_person(prompts, truth, uptake, annotator, instances, seed)


def _seen_truth(
    truth: Volume, prediction: Volume, uptake: Volume | None, annotator: Annotator | None, case_id: str, seed: int
) -> NDArray[Any]:
    """The truth for finding errors: a person ignores errors in the lesions that they miss."""
    if annotator is None:
        return truth.array
    person = Person.before(annotator, truth.array, truth.grid, uptake=_array(uptake), case_id=case_id, seed=seed)
    return person.seen_truth(truth.array, prediction.array)


def _by_person(
    prompts: Prompts, label: Volume, uptake: Volume | None, annotator: Annotator, instances: Instances, seed: int
) -> Prompts:
    """Apply the annotator to the prompts, with the lesions of the rule."""
    if prompts.settings["rule"] == "published":
        instances = "labels" if prompts.settings.get("per_lesion") else "touching"
    return annotate(prompts, label.array, annotator, uptake=_array(uptake), instances=instances, seed=seed)


def _array(volume: Volume | None) -> Any:
    return None if volume is None else volume.array
