"""`clicksim demo`: convert synthetic downloads of four publishers, simulate clicks, play rounds, and report."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clicksim.errors import ClicksimError
from clicksim.files import make_folder, write_text

if TYPE_CHECKING:
    from clicksim.catalog import Catalog
    from clicksim.prompts import Prompts

TITLE = "clicksim demo"
PREDICTOR = "builtin:threshold"
MARK = ".clicksim-demo"
BONE = "maximum projection, CT, -50 to 550 HU"
MADE = ("sources", "catalog", "clicks", "pictures")


@dataclass(frozen=True)
class DemoPart:
    """One source of the demo: its command, its name in tables, its protocol, its voxels in mm."""

    command: str
    name: str
    protocol: str
    spacing: tuple[float, float, float]


PARTS = (
    DemoPart("fdat", "fdat", "autopet-iv@2", (4.07283, 4.07283, 3.0)),
    DemoPart("deep-psma", "deep_psma", "deep-psma@1", (5.0, 5.0, 5.0)),
    DemoPart("tcia-fdg", "tcia_fdg", "autopet-iv@2", (6.0, 6.0, 6.0)),
    DemoPart("longitudinal-ct", "longitudinal_ct", "longitudinal-ct@1", (4.5, 4.5, 5.0)),
)


@click.command("demo")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("clicksim-demo"),
    show_default=True,
    help="Folder for the files; created if it does not exist.",
)
@click.option(
    "--patients",
    type=click.IntRange(1, 1000),
    default=3,
    show_default=True,
    help="Number of patients in fdat; the other sources have a third as many.",
)
@click.option("--seed", type=int, default=42, show_default=True, help="Seed of phantoms and clicks.")
def command(out: Path, patients: int, seed: int) -> None:
    """Write synthetic downloads, convert them, simulate clicks, play six rounds, and write a report.

    The steps are those of `clicksim convert`, `clicksim clicks --catalog`, `clicksim rounds` and `clicksim report`.
    An earlier demo in the folder is replaced; other files are kept.
    """
    click.echo(f"open {make_demo(out, patients=patients, seed=seed)} in a browser")


def make_demo(out: Path, *, patients: int = 3, seed: int = 42) -> Path:
    """Write the demo's files to a folder and return the page.

    They are `sources/<name>` in the layout of the publishers, `catalog`, `<case>_clicks.json` in `clicks/<source>`,
    `pictures`, and the report `index.html`.

    Raises:
        ClicksimError: The folder has files of these names that a demo did not make.
    """
    from clicksim.catalog import find_source, open_catalog
    from clicksim.cli.crew import open_crew
    from clicksim.pipeline.conversion import convert
    from clicksim.pipeline.reporting import report
    from clicksim.pipeline.simulation import PromptRun, simulate_catalog

    _clear(out)
    catalog = out / "catalog"
    for part in PARTS:
        if part.name == "tcia_fdg" and not find_spec("highdicom"):
            click.echo(f"{part.command}: skipped, since DICOM needs pip install 'clicksim[dicom]'", err=True)
            continue
        click.echo(f"{part.command}: phantoms", err=True)
        tree = _write_source(out / "sources" / part.name, part, patients, seed)
        with open_crew(f"{part.command}: patients converted") as crew:
            convert(find_source(part.command), tree, catalog, crew=crew)
        rule = PromptRun(part.protocol, seed)
        with open_crew(f"{part.command}: patients clicked") as crew:
            (run,) = simulate_catalog(catalog, [rule], source=part.name, out=out / "clicks" / part.name, crew=crew)
        click.echo(f"{part.command}: pictures", err=True)
        _draw_cases(open_catalog(catalog), part, run, out / "pictures")
    click.echo(f"six rounds of autopet-v@2 with {PREDICTOR}", err=True)
    _play(catalog, seed)
    click.echo("report", err=True)
    with open_crew("pictures") as crew:  # phantoms have no face
        return report(catalog, out / "index.html", show_head=True, title=TITLE, crew=crew)


def _play(catalog: Path, seed: int) -> None:
    """Play the rounds of autoPET V in the cases of fdat, and commit them to the catalog."""
    from clicksim.cli.crew import open_crew
    from clicksim.pipeline.playing import RoundsRun, play_rounds
    from clicksim.predictors import parse_spec

    with open_crew("patients played") as crew:
        play_rounds(RoundsRun(parse_spec(PREDICTOR), seed=seed), catalog, source="fdat", crew=crew)


def _clear(out: Path) -> None:
    """Delete an earlier demo, and nothing else."""
    found = [name for name in MADE if (out / name).exists()]
    if found and not (out / MARK).is_file():
        raise ClicksimError(f"{out} has {', '.join(found)}, not made by a demo; choose another folder with --out")
    for name in found:
        shutil.rmtree(out / name)
    make_folder(out)
    write_text(out / MARK, "clicksim demo may replace: " + " ".join(MADE) + "\n")
    (out / "pictures").mkdir()


def _write_source(folder: Path, part: DemoPart, patients: int, seed: int) -> Path:
    """Write the phantoms of one source, on a grid fine enough for pictures."""
    from clicksim.phantom import layouts

    few = (patients + 2) // 3
    if part.name == "fdat":
        layouts.write_fdat(folder, patients=patients, seed=seed, shape=None, spacing=part.spacing, lesions=(3, 14))
    elif part.name == "deep_psma":
        layouts.write_deep_psma(folder, patients=few, seed=seed, shape=None, spacing=part.spacing, lesions=(3, 14))
    elif part.name == "tcia_fdg":
        layouts.write_tcia(folder, patients=few, seed=seed, shape=None, spacing=part.spacing, lesions=(3, 14))
    else:
        layouts.write_longitudinal_ct(folder, patients=few, seed=seed, shape=None, spacing=part.spacing)
    return folder


def _draw_cases(catalog: "Catalog", part: DemoPart, run: str, folder: Path) -> None:
    """Draw a picture of each case of a source."""
    from clicksim.report.mip import draw_preview, save_picture, show_bone
    from clicksim.volumes import read_image, read_label

    about, rows = catalog.metadata(run), catalog.table("prompts", run).to_pylist()
    for case in catalog.table("cases", part.name).to_pylist():
        label = read_label(catalog.resolve(case["label_path"]))
        image = read_image(catalog.resolve(case["pet_path"] or case["ct_path"])).array
        prompts = _prompts(case, [row for row in rows if row["case"] == case["case_id"]], about)
        title = f"{_count(case['n_lesions'])}, {part.protocol}: {case['case_id']}"
        shade, caption = (image, "") if case["pet_path"] else (show_bone(image), BONE)
        picture = draw_preview(shade, label.array, prompts, grid=label.grid, title=title, caption=caption)
        save_picture(picture, folder / f"{case['case_id'].replace('/', '_')}.png")


def _prompts(case: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> "Prompts":
    """Return the clicks of a case, from its rows in the catalog."""
    import numpy as np

    from clicksim.geometry import Grid
    from clicksim.prompts import Prompts
    from clicksim.prompts.table import prompt_of

    grid = Grid(tuple(case["shape_xyz"]), tuple(case["spacing_xyz_mm"]), np.reshape(case["affine_ras"], (4, 4)))
    ordered = sorted(rows, key=lambda row: (row["polarity"] == "background", row["order"]))
    clicks = tuple(prompt_of([row]) for row in ordered)
    return Prompts(clicks, grid, case["case_id"], about["protocol"], about["seed"], about["settings"])


def _count(lesions: int) -> str:
    return f"{lesions or 'no'} lesion{'s' * (lesions > 1)}"
