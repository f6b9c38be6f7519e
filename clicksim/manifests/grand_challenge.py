"""Grand Challenge: one archive item per case, the input folder of an interactive algorithm.

    <case>/images/ct/<uuid>.mha
    <case>/images/pet/<uuid>.mha
    <case>/lesion-clicks.json        "Multiple points", named tumor and background, in voxels of the stored array

Source: the interface of the autoPET IV and V algorithms. The uuid is a hash of the case id.
"""

import uuid
from pathlib import Path

from clicksim.catalog.commit import Commit
from clicksim.errors import ClicksimError
from clicksim.files import LESION_CLICKS
from clicksim.manifests.export_format import CaseFiles, ExportedCases, ExportFormat
from clicksim.manifests.images import label_grid, need_channels, place_export_image
from clicksim.manifests.selection import ExportCase, ExportSetup, prompts_of


def write_archive_item(setup: ExportSetup, case: ExportCase, folder: Path) -> CaseFiles:
    """Write the folder of a case; without a prompt run the points are empty, as in round 0."""
    from clicksim.prompts.prompt_files import write_prompts

    grid = label_grid(setup, case)
    stem = str(uuid.uuid5(uuid.NAMESPACE_URL, f"clicksim:{case.case_id}"))
    files = {channel.name: f"{case.name}/images/{channel.name.lower()}/{stem}.mha" for channel in setup.channels}
    for channel in setup.channels:
        place_export_image(setup, case, channel.column, folder / files[channel.name], copy=True)
    files["clicks"] = f"{case.name}/{LESION_CLICKS}"
    write_prompts(folder / files["clicks"], prompts_of(case, grid), "grand-challenge")
    return CaseFiles(files)


def finish_archive(done: ExportedCases, commit: Commit) -> list[str]:  # noqa: ARG001 - of any format
    """Write nothing: the export consists of the folders of the cases."""
    return []


def check_grand_challenge(out: Path) -> list[str]:
    """The faults of the items: images on different grids, points that cannot be read or are outside."""
    from clicksim.prompts.prompt_files import read_prompts
    from clicksim.volumes import read_grid

    faults = []
    for folder in sorted(path for path in out.iterdir() if path.is_dir() and not path.name.startswith(".")):
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


FORMAT = ExportFormat(
    "grand-challenge",
    "Grand Challenge: an archive item per case, .mha images with lesion-clicks.json.",
    write_case=write_archive_item,
    finish=finish_archive,
    check=check_grand_challenge,
    prepare=need_channels,
)
