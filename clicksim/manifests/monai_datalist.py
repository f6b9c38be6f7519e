"""MONAI: a datalist in the form of the Medical Segmentation Decathlon, with folds and prompts.

`load_decathlon_datalist(OUT/datalist.json)` reads it: `training` has the cases of all folds with their `fold`, `test`
those that the publisher holds out. If a plan leaves one scanner or tracer out and a patient has studies on both sides,
training on all other folds would train on patients of the validation. Each fold then has its own list,
`datalist_fold0.json` and so on, with `training` and `validation`. Paths are absolute, as the images stay where they
are. A label whose `instances` is `labels` holds the numbers of its lesions; a note counts the labels that hold more
than 0 and 1. `prompts` are voxels `[i, j, k]` of the stored array; a transform that reorients or crops the image must
move them too.

Source: MONAI, `monai.data.load_decathlon_datalist`.
"""

import json
from pathlib import Path
from typing import Any

from clicksim.catalog.commit import Commit
from clicksim.errors import counted
from clicksim.manifests.export_format import CaseFiles, ExportedCases, ExportFormat
from clicksim.manifests.folder import write_json
from clicksim.manifests.images import label_file, need_channels
from clicksim.manifests.nnunet import channel_roles
from clicksim.manifests.selection import Export, ExportCase, ExportSetup, voxels_of

FILE = "datalist.json"


def list_case(setup: ExportSetup, case: ExportCase, _folder: Path) -> CaseFiles:
    """The entry of a case, and whether its label holds more than 0 and 1."""
    from clicksim.volumes import read_label

    numbered = bool(read_label(label_file(setup, case)).array.max() > 1)
    item = {
        "image": [setup.listed(case, channel.column) for channel in setup.channels],
        "label": setup.listed(case, "label_path"),
        **{name: case.row[name] for name in ("instances", "case_id", "source", "patient_key")},
        "tracer": case.row["tracer_class"],
        "licence": case.row["licence"],
    }
    if setup.run:
        item["prompts"] = voxels_of(case.prompts)
    return CaseFiles({}, {"entry": item, "numbered": numbered})


def finish_datalists(done: ExportedCases, commit: Commit) -> list[str]:
    """Write `datalist.json`, or one list for each fold."""
    entries = {case.key: done.item(case)["entry"] for case in done.cases}
    test = [entries[case.key] for case in done.cases if case.held_out]
    if _patients_span_folds(done.export):
        for split in done.export.splits():
            lists = {
                "training": [entries[key] for key in split.train if key in entries],
                "validation": [entries[key] for key in split.validation if key in entries],
            }
            write_json(commit, f"datalist_fold{split.fold}.json", _content(done.export, {**lists, "test": test}))
    else:
        training = [{**entries[case.key], "fold": case.fold or 0} for case in done.cases if not case.held_out]
        write_json(commit, FILE, _content(done.export, {"training": training, "test": test}))
    numbered = sum(done.item(case)["numbered"] for case in done.cases)
    return [f"{counted(numbered, 'label')} with values above 1: a transform must make masks"] if numbered else []


def _patients_span_folds(export: Export) -> bool:
    """Whether a patient has studies in several folds, so that `fold` alone does not define the training cases."""
    folds: dict[str, set[int | None]] = {}
    for case in export.cases:
        folds.setdefault(case.row["patient_key"], set()).add(case.fold)
    return any(len(held) > 1 for held in folds.values())


def _content(export: Export, lists: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """A datalist."""
    return {
        "name": "clicksim",
        "description": "; ".join(source["citation"] or source["source"] for source in export.about["sources"]),
        "licence": export.about["licence"],
        "reference": "LICENCES.md",
        "release": export.about["catalog"]["digest"],
        "modality": {str(n): channel.name for n, channel in enumerate(export.channels)},
        "channel_roles": channel_roles(export.channels),
        "labels": {"0": "background", "1": "tumor"},
        "numTraining": len(lists["training"]),
        "numTest": len(lists["test"]),
        **lists,
    }


def check_monai(out: Path) -> list[str]:
    """The faults of the datalists; no image is read."""
    files = sorted(out.glob("datalist*.json"))
    return [fault for file in files for fault in _check_list(file)] if files else [f"{FILE} is missing"]


def _check_list(file: Path) -> list[str]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return [f"{file.name} cannot be read: {error}"]
    needed = ("training", "modality", "labels", "numTraining")
    faults = [f"{file.name} has no {key}" for key in needed if key not in content]
    if faults:
        return faults
    for key, count in (("training", "numTraining"), ("test", "numTest")):
        if len(content.get(key, [])) != content.get(count, 0):
            faults.append(f"{count} is {content.get(count)}, but there are {len(content.get(key, []))} items")
    lists = {key: content.get(key, []) for key in ("training", "validation", "test")}
    for item in (item for items in lists.values() for item in items):
        name, paths = item.get("case_id", "?"), [*item["image"], item["label"]]
        if len(item["image"]) != len(content["modality"]):
            faults.append(f"{name} has {len(item['image'])} images, but {len(content['modality'])} channels are named")
        faults += [f"{name}: {path} does not exist" for path in paths if not Path(path).is_file()]
    trained = {item["patient_key"] for item in lists["training"]}
    validated = {item["patient_key"] for key in ("validation", "test") for item in lists[key]}
    faults += [f"{file.name} trains and validates on patient {name}" for name in sorted(trained & validated)]
    return faults


FORMAT = ExportFormat(
    "monai",
    "MONAI: OUT/datalist.json with folds and prompts.",
    write_case=list_case,
    finish=finish_datalists,
    check=check_monai,
    prepare=need_channels,
)
