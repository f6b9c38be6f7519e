"""Grand Challenge: one archive item per case, the input folder of an interactive algorithm.

    <case>/images/ct/<uuid>.mha
    <case>/images/pet/<uuid>.mha
    <case>/lesion-clicks.json        "Multiple points", named tumor and background, in voxels of the stored array

Source: the interface of the autoPET IV and V algorithms. The uuid is a hash of the case and tells nothing else.
"""

import shutil
import uuid
from pathlib import Path
from typing import Any

from clicksim.errors import CatalogError, ClicksimError
from clicksim.files import LESION_CLICKS
from clicksim.manifests.folder import Written, finish, prepare_folder
from clicksim.manifests.images import label_grid, place_export_image
from clicksim.manifests.selection import Export, key_of, prompts_of


def write_grand_challenge(export: Export, out: Path) -> Written:
    """Write one folder per case; without a prompt run the points are empty, as in round 0.

    Args:
        export: What to write.
        out: The folder.

    Raises:
        CatalogError: The cases have no image in common; no case left.
    """
    if not export.channels:
        raise CatalogError("the cases have no image in common; choose sources with --source")
    prepare_folder(out)
    written = Written()
    for row in export.cases:
        try:
            written.files[key_of(row)] = _write_case(export, row, out)
        except ClicksimError as error:
            written.refused[row["case_id"]] = str(error)
            shutil.rmtree(out / export.names[key_of(row)], ignore_errors=True)
    return finish(out, "grand-challenge", export, written, {})


def check_grand_challenge(out: Path) -> list[str]:
    """What is wrong with the items: images on one grid, points that can be read and lie inside."""
    from clicksim.prompts.prompt_files import read_prompts
    from clicksim.volumes import read_grid

    faults = []
    for folder in sorted(path for path in out.iterdir() if path.is_dir()):
        files = sorted(folder.glob("images/*/*.mha"))
        if not files:
            faults.append(f"{folder.name} has no image")
            continue
        try:
            grids = [read_grid(file) for file in files]
            for grid in grids[1:]:
                grids[0].check_same(grid, (files[0].parent.name, "another image"), where=folder.name)
            read_prompts(folder / LESION_CLICKS, grids[0])
        except ClicksimError as error:
            faults.append(f"{folder.name}: {error}")
        if len({file.stem for file in files}) > 1:
            faults.append(f"{folder.name}: CT and PET have different names")
    return faults


def _write_case(export: Export, row: dict[str, Any], out: Path) -> dict[str, str]:
    """The files of one item, relative to the folder."""
    from clicksim.prompts.prompt_files import write_prompts

    name, grid = export.names[key_of(row)], label_grid(export, row)
    stem = str(uuid.uuid5(uuid.NAMESPACE_URL, f"clicksim:{row['case_id']}"))
    files = {channel.name: f"{name}/images/{channel.name.lower()}/{stem}.mha" for channel in export.channels}
    for channel in export.channels:
        place_export_image(export, row, channel.column, out / files[channel.name], copy=True)
    files["clicks"] = f"{name}/{LESION_CLICKS}"
    write_prompts(out / files["clicks"], prompts_of(export, row, grid), "grand-challenge")
    return files
