"""nnU-Net v2: a dataset folder with `dataset.json`, `imagesTr`, `labelsTr` and `splits_final.json`.

nnU-Net chooses the normalisation of a channel by its name: `CT` gets that of CT, `noNorm` none, any other a
z-score. Guidance channels are therefore all called `noNorm`: a map of a few bright voxels would be scaled to
hundreds of standard deviations. What each channel is stands in `channel_roles`, which nnU-Net does not read.
`splits_final.json` belongs in the folder of the preprocessed dataset before training begins; without it nnU-Net
draws folds by case, which tears patients apart.

Source: documentation of nnU-Net v2, dataset format and manual data splits.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clicksim.errors import CatalogError, ClicksimError, SettingError
from clicksim.geometry import Grid
from clicksim.manifests.folder import RECORD, Written, check_copies, finish, prepare_folder, write_json
from clicksim.manifests.images import SUFFIX, label_grid, place_export_image, place_label
from clicksim.manifests.selection import PROMPT_CHANNELS, Channel, Export, key_of, prompts_of
from clicksim.prompts import Click, Prompts

SPLITS = "splits_final.json"
NAME = re.compile(r"Dataset[0-9]{3}_[A-Za-z0-9._-]+")


def write_nnunet(
    export: Export, out: Path, *, copy: bool = False, guidance: str = "", settings: Mapping[str, Any] | None = None
) -> Written:
    """Write the dataset; cases whose images do not fit together are left out, with the reason.

    Args:
        export: What to write.
        out: The folder of the dataset, `DatasetNNN_Name`, inside `nnUNet_raw`.
        copy: Copy images instead of linking them.
        guidance: An encoding of `clicksim.encode`; the prompts of the run become two channels after the images.
        settings: Settings of the encoding.

    Raises:
        SettingError: A folder of another name; guidance without a prompt run, or settings without guidance; an
            unknown encoding.
        CatalogError: No channel that all cases have; no case left.
    """
    if not NAME.fullmatch(out.name):
        raise SettingError(f"nnU-Net finds a dataset by its folder, DatasetNNN_Name, got {out.name!r}")
    if not export.channels:
        raise CatalogError("the cases have no image in common; choose sources with --source")
    if guidance and not export.run:
        raise SettingError("guidance is drawn from prompts; name their run with --run")
    if settings and not guidance:
        raise SettingError(f"{', '.join(settings)} has no effect without guidance; name an encoding with --guidance")
    if guidance:
        _check_encoding(guidance, settings or {})
    if copy:
        check_copies(export, out)
    prepare_folder(out)
    written = Written()
    channels = (*export.channels, *(PROMPT_CHANNELS if guidance else ()))
    for row in export.cases:
        try:
            files = _write_case(export, row, out, copy=copy)
            if guidance:
                files |= _write_guidance(export, row, out, guidance, settings or {})
            written.files[key_of(row)] = files
        except ClicksimError as error:
            written.refused[row["case_id"]] = str(error)
            _remove(export, row, out)
    write_json(out / "dataset.json", dataset_json(export, channels, len(written.files)))
    splits = [
        {
            "train": [export.names[key] for key in split.train if key in written.files],
            "val": [export.names[key] for key in split.validation if key in written.files],
        }
        for split in export.splits()
    ]
    if splits:
        write_json(out / SPLITS, splits)
        written.notes.append(f"copy {SPLITS} to the dataset's folder in nnUNet_preprocessed before training")
    about = {"copy": copy, "guidance": guidance or None, "guidance_settings": dict(settings or {})}
    return finish(out, "nnunet", export, written, about)


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
    """What is wrong with a dataset, as nnU-Net's own check would say it; reads no image."""
    try:
        folds = json.loads((out / RECORD).read_text(encoding="utf-8"))["folds"]
        content = json.loads((out / "dataset.json").read_text(encoding="utf-8"))
        splits = json.loads((out / SPLITS).read_text(encoding="utf-8")) if folds else []
    except FileNotFoundError as error:
        return [f"{Path(str(error.filename)).name} is missing"]
    except ValueError as error:
        return [f"JSON that cannot be read: {error}"]
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
        faults.append(f"channels are numbered {sorted(channels)}, not from 0 on")
    if sorted(content["labels"].values()) != list(range(len(content["labels"]))):
        faults.append(f"labels are {content['labels']}, not 0, 1, ... without a gap")
    if len(labels) != content["numTraining"]:
        faults.append(f"numTraining is {content['numTraining']}, there are {len(labels)} labels")
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


def _write_case(export: Export, row: dict[str, Any], out: Path, *, copy: bool) -> dict[str, str]:
    """The files of one case, relative to the folder."""
    name = export.names[key_of(row)]
    files = {"label": f"labelsTr/{name}{SUFFIX}"}
    place_label(export, row, out / files["label"], copy=copy)
    for n, channel in enumerate(export.channels):
        files[channel.name] = f"imagesTr/{name}_{n:04d}{SUFFIX}"
        place_export_image(export, row, channel.column, out / files[channel.name], copy=copy)
    return files


def _check_encoding(guidance: str, settings: Mapping[str, Any]) -> None:
    """Refuse an encoding that cannot be drawn, before any file is written."""
    from clicksim.guidance import encode

    one = Prompts((Click((1, 1, 1), True),), Grid.from_spacing((3, 3, 3), (1, 1, 1)))
    if len(encode(one, (3, 3, 3), encoding=guidance, **settings)) != len(PROMPT_CHANNELS):
        raise SettingError("guidance of a manifest has two channels, foreground and background")


def _write_guidance(
    export: Export, row: dict[str, Any], out: Path, guidance: str, settings: Mapping[str, Any]
) -> dict[str, str]:
    """The two channels of a case's prompts; zero where there are none."""
    from clicksim.guidance import encode, write_channels

    grid, name = label_grid(export, row), export.names[key_of(row)]
    channels = encode(prompts_of(export, row, grid), grid.shape, encoding=guidance, **settings)
    first = len(export.channels)
    write_channels(out / "imagesTr" / name, channels, grid, first=first)
    return {channel.name: f"imagesTr/{name}_{first + n:04d}{SUFFIX}" for n, channel in enumerate(PROMPT_CHANNELS)}


def _remove(export: Export, row: dict[str, Any], out: Path) -> None:
    """The files of a case that was refused half-way."""
    name = export.names[key_of(row)]
    (out / f"labelsTr/{name}{SUFFIX}").unlink(missing_ok=True)
    for n in range(len(export.channels) + len(PROMPT_CHANNELS)):
        (out / f"imagesTr/{name}_{n:04d}{SUFFIX}").unlink(missing_ok=True)
