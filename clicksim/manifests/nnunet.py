"""nnU-Net v2: a dataset folder with `dataset.json`, `imagesTr`, `labelsTr` and `splits_final.json`.

nnU-Net chooses the normalisation of a channel by its name: `CT` gets that of CT, `noNorm` none, any other name a
z-score. Guidance channels are therefore all called `noNorm`: a z-score would scale a map of a few bright voxels to
hundreds of standard deviations. `channel_roles`, which nnU-Net does not read, says what each channel is.
`splits_final.json` belongs in the folder of the preprocessed dataset before training begins; without it nnU-Net
draws folds by case, which separates the studies of a patient.

Source: documentation of nnU-Net v2, dataset format and manual data splits.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clicksim.catalog.commit import Commit
from clicksim.errors import SettingError
from clicksim.geometry import Grid
from clicksim.manifests.export_format import CaseFiles, ExportedCases, ExportFormat
from clicksim.manifests.folder import RECORD, write_json
from clicksim.manifests.images import SUFFIX, label_grid, need_channels, place_export_image, place_label
from clicksim.manifests.selection import PROMPT_CHANNELS, Channel, Export, ExportCase, ExportSetup, prompts_of
from clicksim.prompts import Click, Prompts
from clicksim.settings import Setting, Value, fill_settings

SPLITS = "splits_final.json"
NAME = re.compile(r"Dataset[0-9]{3}_[A-Za-z0-9._-]+")
COPY = Setting("bool", "copy images instead of linking them", default=False)
SETTINGS = {
    "copy": COPY,
    "guidance": Setting("str", "an encoding, which draws the prompts of the run as two further channels", default=""),
}


def complete_settings(given: Mapping[str, Value]) -> dict[str, Value]:
    """The settings of the format; other settings belong to the encoding.

    Raises:
        SettingError: An unknown encoding or setting; settings of an encoding without `guidance`.
    """
    own = {name: value for name, value in given.items() if name in SETTINGS}
    drawing = {name: value for name, value in given.items() if name not in SETTINGS}
    filled = fill_settings(SETTINGS, own, "the export nnunet")
    if drawing and not filled["guidance"]:
        raise SettingError(f"{', '.join(drawing)} has no effect without guidance; name an encoding with --guidance")
    if filled["guidance"]:
        _check_encoding(filled["guidance"], drawing)
    return {**filled, "guidance_settings": drawing}


def check_dataset(export: Export, out: Path, settings: Mapping[str, Any]) -> None:
    """Reject an export that would not be a dataset.

    Raises:
        SettingError: A folder that is not called `DatasetNNN_Name`; guidance without a prompt run.
        CatalogError: The cases have no image in common.
    """
    if not NAME.fullmatch(out.name):
        raise SettingError(f"the folder of an nnU-Net dataset must be named DatasetNNN_Name, got {out.name!r}")
    need_channels(export, out, settings)
    if settings["guidance"] and not export.run:
        raise SettingError("guidance is drawn from prompts; name their run with --run")


def write_training_case(setup: ExportSetup, case: ExportCase, folder: Path) -> CaseFiles:
    """Write label, images and guidance of a case."""
    copy = setup.settings["copy"]
    files = {"label": f"labelsTr/{case.name}{SUFFIX}"}
    place_label(setup, case, folder / files["label"], copy=copy)
    for n, channel in enumerate(setup.channels):
        files[channel.name] = f"imagesTr/{case.name}_{n:04d}{SUFFIX}"
        place_export_image(setup, case, channel.column, folder / files[channel.name], copy=copy)
    if setup.settings["guidance"]:
        files |= _write_guidance(setup, case, folder)
    return CaseFiles(files)


def finish_dataset(done: ExportedCases, commit: Commit) -> list[str]:
    """Write `dataset.json` and the splits."""
    channels = (*done.export.channels, *(PROMPT_CHANNELS if done.settings["guidance"] else ()))
    write_json(commit, "dataset.json", dataset_json(done.export, channels, len(done.written)))
    names = {case.key: case.name for case in done.cases}
    splits = [
        {
            "train": [names[key] for key in split.train if key in names],
            "val": [names[key] for key in split.validation if key in names],
        }
        for split in done.export.splits()
    ]
    if not splits:
        return []
    write_json(commit, SPLITS, splits)
    return [f"copy {SPLITS} to the dataset's folder in nnUNet_preprocessed before training"]


def dataset_json(export: Export, channels: tuple[Channel, ...], count: int) -> dict[str, Any]:
    """The content of `dataset.json`."""
    return {
        "name": "clicksim",
        "description": ", ".join(source["title"] or source["source"] for source in export.about["sources"]),
        "licence": export.about["licence"],
        "reference": "LICENCES.md",
        "channel_names": {str(n): _norm_name(channel) for n, channel in enumerate(channels)},
        "channel_roles": channel_roles(channels),
        "labels": {"background": 0, "tumor": 1},
        "numTraining": count,
        "file_ending": SUFFIX,
    }


def channel_roles(channels: tuple[Channel, ...]) -> dict[str, dict[str, Any]]:
    """What each channel is, and what may be done to it."""
    return {
        str(n): {
            "name": channel.name,
            "role": channel.role,
            "normalise": channel.normalise,
            "augment_intensity": channel.augment_intensity,
        }
        for n, channel in enumerate(channels)
    }


def check_nnunet(out: Path) -> list[str]:
    """The faults of a dataset that the check of nnU-Net would find; no image is read."""
    try:
        folds = json.loads((out / RECORD).read_text(encoding="utf-8"))["folds"]
        content = json.loads((out / "dataset.json").read_text(encoding="utf-8"))
        splits = json.loads((out / SPLITS).read_text(encoding="utf-8")) if folds else []
    except FileNotFoundError as error:
        return [f"{Path(str(error.filename)).name} is missing"]
    except ValueError as error:
        return [f"JSON cannot be read: {error}"]
    needed = ("channel_names", "labels", "numTraining", "file_ending")
    faults = [f"dataset.json has no {key}" for key in needed if key not in content]
    if folds and not splits:
        faults.append(f"{SPLITS} has no fold")
    if faults:
        return faults
    ending, channels = content["file_ending"], content["channel_names"]
    labels = {file.name.removesuffix(ending) for file in (out / "labelsTr").glob(f"*{ending}")}
    images = {file.name for file in (out / "imagesTr").glob(f"*{ending}")}
    wanted = {f"{name}_{int(n):04d}{ending}" for name in labels for n in channels}
    if sorted(map(int, channels)) != list(range(len(channels))):
        faults.append(f"channels are numbered {sorted(channels)}, but must start at 0 without a gap")
    if sorted(content["labels"].values()) != list(range(len(content["labels"]))):
        faults.append(f"labels are {content['labels']}, not 0, 1, ... without a gap")
    if len(labels) != content["numTraining"]:
        faults.append(f"numTraining is {content['numTraining']}, but there are {len(labels)} labels")
    faults += [f"imagesTr/{name} is missing" for name in sorted(wanted - images)]
    faults += [f"imagesTr/{name} belongs to no label" for name in sorted(images - wanted)]
    for role in content.get("channel_roles", {}).items():
        if role[1]["role"] == "prompt" and channels.get(role[0]) != "noNorm":
            faults.append(f"channel {role[0]} holds prompts and would be normalised: call it noNorm")
    for n, split in enumerate(splits):
        both = set(split["train"]) & set(split["val"])
        faults += [f"fold {n} trains and validates on {name}" for name in sorted(both)]
        faults += [
            f"fold {n} names {name}, which has no label" for name in sorted({*split["train"], *split["val"]} - labels)
        ]
    return faults


def _norm_name(channel: Channel) -> str:
    return channel.name if channel.normalise else "noNorm"


def _check_encoding(guidance: str, settings: Mapping[str, Any]) -> None:
    """Reject an encoding that cannot be drawn as two channels."""
    from clicksim.guidance import encode

    one = Prompts((Click((1, 1, 1), True),), Grid.from_spacing((3, 3, 3), (1, 1, 1)))
    if len(encode(one, (3, 3, 3), encoding=guidance, **settings)) != len(PROMPT_CHANNELS):
        raise SettingError("guidance of a manifest has two channels, foreground and background")


def _write_guidance(setup: ExportSetup, case: ExportCase, folder: Path) -> dict[str, str]:
    """The two channels of a case's prompts; zero where there are none."""
    from clicksim.guidance import encode, write_channels

    grid, first = label_grid(setup, case), len(setup.channels)
    drawing = setup.settings["guidance_settings"]
    channels = encode(prompts_of(case, grid), grid.shape, encoding=setup.settings["guidance"], **drawing)
    write_channels(folder / "imagesTr" / case.name, channels, grid, first=first)
    return {channel.name: f"imagesTr/{case.name}_{first + n:04d}{SUFFIX}" for n, channel in enumerate(PROMPT_CHANNELS)}


FORMAT = ExportFormat(
    "nnunet",
    "nnU-Net v2: OUT is the folder of the dataset, DatasetNNN_Name, in nnUNet_raw.",
    write_case=write_training_case,
    finish=finish_dataset,
    check=check_nnunet,
    settings=SETTINGS,
    prepare=check_dataset,
    complete=complete_settings,
)
