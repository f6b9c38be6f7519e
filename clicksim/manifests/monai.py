"""MONAI: a datalist in the manner of the Medical Segmentation Decathlon, with folds and prompts.

`load_decathlon_datalist(OUT/datalist.json)` reads it: `training` has the cases of all folds with their `fold`,
`test` those that the publisher holds out. Paths are absolute, as the images stay where they are. `prompts` are
voxels `[i, j, k]` of the stored array; a transform that re-orients or crops the image must move them too.

Source: MONAI, `monai.data.load_decathlon_datalist`.
"""

import json
from pathlib import Path
from typing import Any

from clicksim.errors import CatalogError, ClicksimError
from clicksim.manifests.common import Export, Written, finish, key_of, prepare_folder, voxels_of, write_json
from clicksim.manifests.nnunet import channel_roles

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
    prepare_folder(out)
    written, training, test = Written(), [], []
    for row in export.cases:
        try:
            item = _item(export, row)
        except ClicksimError as error:
            written.refused[row["case_id"]] = str(error)
            continue
        fold = export.fold(row)
        if fold is None and row["official_split"] == "test":
            test.append(item)
        else:
            training.append({**item, "fold": 0 if fold is None else fold})
        written.files[key_of(row)] = {"datalist": FILE}
    content = {
        "name": "clicksim",
        "description": "; ".join(source["citation"] or source["source"] for source in export.about["sources"]),
        "licence": export.about["licence"],
        "reference": "LICENCES.md",
        "release": export.about["catalog"]["digest"],
        "modality": {str(n): channel.name for n, channel in enumerate(export.channels)},
        "channel_roles": channel_roles(export.channels),
        "labels": {"0": "background", "1": "tumor"},
        "numTraining": len(training),
        "numTest": len(test),
        "training": training,
        "test": test,
    }
    write_json(out / FILE, content)
    return finish(out, "monai", export, written, {})


def check_monai(out: Path) -> list[str]:
    """What is wrong with a datalist; no image is read."""
    try:
        content = json.loads((out / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return [f"{FILE} cannot be read: {error}"]
    faults = [f"{FILE} has no {key}" for key in ("training", "modality", "labels", "numTraining") if key not in content]
    if faults:
        return faults
    for key, count in (("training", "numTraining"), ("test", "numTest")):
        if len(content.get(key, [])) != content.get(count, 0):
            faults.append(f"{count} is {content.get(count)}, there are {len(content[key])} items")
    for item in [*content["training"], *content.get("test", [])]:
        name = item.get("case_id", "?")
        if len(item["image"]) != len(content["modality"]):
            faults.append(f"{name} has {len(item['image'])} images, {len(content['modality'])} channels are named")
        faults += [
            f"{name}: {file} is not there" for file in [*item["image"], item["label"]] if not Path(file).is_file()
        ]
    return faults


def _item(export: Export, row: dict[str, Any]) -> dict[str, Any]:
    """One case of the list."""
    if row["label_path"] is None:
        raise CatalogError(f"case {row['case_id']} has no label")
    item = {
        "image": [export.file(row, channel.column).as_posix() for channel in export.channels],
        "label": export.file(row, "label_path").as_posix(),
        "case_id": row["case_id"],
        "source": row["source"],
        "patient_key": row["patient_key"],
        "tracer": row["tracer_class"],
        "licence": row["licence"],
    }
    return item | ({"prompts": voxels_of(export.prompts.get(row["case_id"], []))} if export.run else {})
