"""MONAI: a datalist in the manner of the Medical Segmentation Decathlon, with folds and prompts.

`load_decathlon_datalist(OUT/datalist.json)` reads it: `training` has the cases of all folds with their `fold`,
`test` those that the publisher holds out. Where a plan leaves one scanner or tracer out and a patient has studies on
both sides, training on every other fold would train on patients that are judged: each fold then has a list of its
own, `datalist_fold0.json` and so on, with `training` and `validation`. Paths are absolute, as the images stay where
they are; a label whose `instances` is `labels` holds the numbers of its lesions, and a note counts the labels that
hold more than 0 and 1. `prompts` are voxels `[i, j, k]` of the stored array; a transform that re-orients or crops the
image must move them too.

Source: MONAI, `monai.data.load_decathlon_datalist`.
"""

import json
from pathlib import Path
from typing import Any

from clicksim.errors import CatalogError, ClicksimError, counted
from clicksim.manifests.folder import Written, finish, prepare_folder, write_json
from clicksim.manifests.nnunet import channel_roles
from clicksim.manifests.selection import Export, key_of, voxels_of

FILE = "datalist.json"


def write_monai(export: Export, out: Path) -> Written:
    """Write `datalist.json`.

    Args:
        export: What to write.
        out: The folder.

    Raises:
        CatalogError: No channel that all cases have; no case left.
    """
    if not export.channels:
        raise CatalogError("the cases have no image in common; choose sources with --source")
    from clicksim.volumes import read_label

    prepare_folder(out)
    written, items, numbered = Written(), {}, 0
    for row in export.cases:
        try:
            items[key_of(row)] = item = _item(export, row)
            numbered += bool(read_label(item["label"]).array.max() > 1)
        except ClicksimError as error:
            written.refused[row["case_id"]] = str(error)
    rows = {key_of(row): row for row in export.cases}
    held_out = [key for key in items if export.fold(rows[key]) is None and rows[key]["official_split"] == "test"]
    test = [items[key] for key in held_out]
    if _patients_span_folds(export):
        for split in export.splits():
            lists = {
                "training": [items[key] for key in split.train if key in items],
                "validation": [items[key] for key in split.validation if key in items],
            }
            write_json(out / f"datalist_fold{split.fold}.json", _content(export, {**lists, "test": test}))
            for key in {*split.train, *split.validation} & items.keys():
                written.files.setdefault(key, {})[f"fold {split.fold}"] = f"datalist_fold{split.fold}.json"
    else:
        training = [{**items[key], "fold": export.fold(rows[key]) or 0} for key in items if key not in held_out]
        write_json(out / FILE, _content(export, {"training": training, "test": test}))
        written.files = {key: {"datalist": FILE} for key in items}
    if numbered:
        written.notes.append(f"{counted(numbered, 'label')} with values above 1: make masks of them in a transform")
    return finish(out, "monai", export, written, {})


def _patients_span_folds(export: Export) -> bool:
    """Whether `fold` alone cannot say whom a fold must not train on."""
    folds: dict[str, set[int | None]] = {}
    for row in export.cases:
        folds.setdefault(row["patient_key"], set()).add(export.fold(row))
    return any(len(held) > 1 for held in folds.values())


def _content(export: Export, lists: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """A datalist with its head."""
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
    """What is wrong with the datalists; no image is read."""
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
            faults.append(f"{count} is {content.get(count)}, there are {len(content.get(key, []))} items")
    lists = {key: content.get(key, []) for key in ("training", "validation", "test")}
    for item in (item for items in lists.values() for item in items):
        name, paths = item.get("case_id", "?"), [*item["image"], item["label"]]
        if len(item["image"]) != len(content["modality"]):
            faults.append(f"{name} has {len(item['image'])} images, {len(content['modality'])} channels are named")
        faults += [f"{name}: {path} is not there" for path in paths if not Path(path).is_file()]
    trained = {item["patient_key"] for item in lists["training"]}
    judged = {item["patient_key"] for key in ("validation", "test") for item in lists[key]}
    return faults + [f"{file.name} trains on patient {name}, who is judged" for name in sorted(trained & judged)]


def _item(export: Export, row: dict[str, Any]) -> dict[str, Any]:
    """One case of the list."""
    if row["label_path"] is None:
        raise CatalogError(f"case {row['case_id']} has no label")
    item = {
        "image": [export.listed(row, channel.column) for channel in export.channels],
        "label": export.listed(row, "label_path"),
        "instances": row["instances"],
        "case_id": row["case_id"],
        "source": row["source"],
        "patient_key": row["patient_key"],
        "tracer": row["tracer_class"],
        "licence": row["licence"],
    }
    return item | ({"prompts": voxels_of(export.prompts.get(row["case_id"], []))} if export.run else {})
