"""`clicksim demo`: synthetic downloads of three publishers, brought into a catalog, clicked in, shown on a page."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from clicksim.errors import ClicksimError
from clicksim.files import replacing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from clicksim.catalog import Catalog
    from clicksim.prompts import Prompts
    from clicksim.report.page import PageCase

TITLE = "clicksim demo"
INTRO = (
    "Synthetic PET/CT and CT in the layouts of three publishers, converted into one catalog, with simulated clicks: no "
    "patient and no download. Each picture shows the maximum from the front and from the side, lesions outlined, "
    "clicks numbered in the order in which they were made."
)
MARK = ".clicksim-demo"
MADE = ("sources", "catalog", "clicks", "pictures")


@dataclass(frozen=True)
class Part:
    """One source of the demo: its command, its protocol, its voxels, its heading on the page."""

    command: str
    name: str
    protocol: str
    spacing: tuple[float, float, float]
    heading: str


PARTS = (
    Part("fdat", "fdat", "autopet-iv@2", (4.07283, 4.07283, 3.0), "fdat: whole-body FDG and PSMA PET/CT"),
    Part("deep-psma", "deep_psma", "deep-psma@1", (5.0, 5.0, 5.0), "DEEP-PSMA: two tracers of one patient"),
    Part(
        "longitudinal-ct", "longitudinal_ct", "longitudinal-ct@1", (4.5, 4.5, 5.0), "Longitudinal CT: two time points"
    ),
)


@click.command("demo")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("clicksim-demo"),
    show_default=True,
    help="Folder for the files; made where it does not exist.",
)
@click.option(
    "--patients", type=click.IntRange(1, 1000), default=3, show_default=True, help="Of fdat; the others have one for 3."
)
@click.option("--seed", type=int, default=42, show_default=True, help="Of phantoms and clicks.")
def command(out: Path, patients: int, seed: int) -> None:
    """Write synthetic downloads, convert them, click in them, and write a page to look at.

    The steps are those of `clicksim convert` and `clicksim clicks --catalog`. An earlier demo in the folder is
    replaced; other files are left alone.
    """
    try:
        page = make_demo(out, patients=patients, seed=seed)
    except (ClicksimError, OSError) as error:
        click.echo(f"clicksim demo: {error}", err=True)
        raise click.exceptions.Exit(1) from None
    click.echo(f"open {page} in a browser")


def make_demo(out: Path, *, patients: int = 3, seed: int = 42) -> Path:
    """Write the demo's files to a folder and return the page.

    `sources/<name>` as the publishers have their files, `catalog`, one `<case>_clicks.json` a case in `clicks`,
    pictures, and `index.html`.

    Raises:
        ClicksimError: The folder has things of these names that no demo made.
    """
    from clicksim.build import convert_source
    from clicksim.build.prompts import PromptJob, simulate_catalog
    from clicksim.catalog import find_source, open_catalog
    from clicksim.cli.progress import progress
    from clicksim.report.page import write_page

    _clear(out)
    shown: list[PageCase] = []
    for part in PARTS:
        click.echo(f"{part.command}: phantoms", err=True)
        tree = _write_source(out / "sources" / part.name, part, patients, seed)
        with progress(f"{part.command}: patients converted") as report:
            convert_source(find_source(part.command), tree, out / "catalog", progress=report)
        job = PromptJob(str(out / "catalog"), part.protocol, seed, {}, str(out / "clicks"))
        with progress(f"{part.command}: patients clicked") as report:
            run, _ = simulate_catalog(job, source=part.name, progress=report)
        click.echo(f"{part.command}: pictures", err=True)
        shown += _draw_cases(open_catalog(out / "catalog"), part, run, out)
    made_by = f"clicksim demo --out {quote(str(out))} --patients {patients} --seed {seed}"
    return write_page(out / "index.html", shown, title=TITLE, intro=INTRO, command=made_by)


def _clear(out: Path) -> None:
    """Take away an earlier demo, and nothing else."""
    found = [name for name in MADE if (out / name).exists()]
    if found and not (out / MARK).is_file():
        raise ClicksimError(f"{out} has {', '.join(found)} that no demo made; name another folder with --out")
    for name in found:
        shutil.rmtree(out / name)
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / MARK) as temporary:
        temporary.write_text("clicksim demo may replace: " + " ".join(MADE) + "\n", encoding="utf-8")
    (out / "pictures").mkdir()


def _write_source(folder: Path, part: Part, patients: int, seed: int) -> Path:
    """The phantoms of one source, on a grid fine enough to look at."""
    from clicksim.phantom import layouts

    few = (patients + 2) // 3
    if part.name == "fdat":
        layouts.write_fdat(folder, patients=patients, seed=seed, shape=None, spacing=part.spacing, lesions=(3, 14))
    elif part.name == "deep_psma":
        layouts.write_deep_psma(folder, patients=few, seed=seed, shape=None, spacing=part.spacing, lesions=(3, 14))
    else:
        layouts.write_longitudinal_ct(folder, patients=few, seed=seed, shape=None, spacing=part.spacing)
    return folder


def _draw_cases(catalog: "Catalog", part: Part, run: str, out: Path) -> "list[PageCase]":
    """Picture and facts of each case of a source."""
    from clicksim.report.mip import draw_preview, save_picture
    from clicksim.report.page import PageCase
    from clicksim.volumes import read_image, read_label

    about, rows = catalog.metadata(run), catalog.table("prompts", run).to_pylist()
    cases = []
    for case in catalog.table("cases", part.name).to_pylist():
        label = read_label(catalog.resolve(case["label_path"]))
        image = read_image(catalog.resolve(case["pet_path"] or case["ct_path"])).array
        prompts = _prompts(case, [row for row in rows if row["case"] == case["case_id"]], about)
        title = f"{_count(case['n_lesions'])}, {part.protocol}: {case['case_id']}"
        shade, caption = (image, "") if case["pet_path"] else (_dense(image), DENSE)
        picture = draw_preview(shade, label.array, prompts, grid=label.grid, title=title, caption=caption)
        name = case["case_id"].replace("/", "_")
        save_picture(picture, out / "pictures" / f"{name}.png")
        files = [f"clicks/{name}_clicks.json", f"pictures/{name}.png"]
        facts = [(text, str(case[key])) for text, key in FACTS if case[key] not in (None, [], "single", "none")]
        cases.append(
            PageCase(
                prompts,
                picture,
                tracer="" if case["tracer_class"] == "none" else case["tracer_class"],
                n_lesions=case["n_lesions"],
                volume_ml=case["lesion_volume_ml"],
                files=files,
                facts=[(text, value.strip("[]").replace("'", "")) for text, value in facts],
                group=part.heading,
            )
        )
    return cases


DENSE = "maximum projection, CT, -50 to 550 HU"
FACTS = (
    ("patient", "patient_key"), ("date (shifted)", "study_date"), ("time point", "timepoint"),
    ("diagnosis", "diagnosis"), ("fold", "official_fold"), ("split", "official_split"),
    ("threshold (SUV)", "suv_threshold"), ("other scan", "paired_case_id"), ("flags", "quality_flags"),
)  # fmt: skip


def _prompts(case: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> "Prompts":
    """The clicks of a case, from its rows in the catalog."""
    import numpy as np

    from clicksim.geometry import Grid
    from clicksim.prompts import Click, Prompts

    grid = Grid(tuple(case["shape_xyz"]), tuple(case["spacing_xyz_mm"]), np.reshape(case["affine_ras"], (4, 4)))
    ordered = sorted(rows, key=lambda row: (row["polarity"] == "background", row["order"]))
    clicks = [Click((r["i"], r["j"], r["k"]), r["polarity"] == "foreground", r["lesion"]) for r in ordered]
    return Prompts(tuple(clicks), grid, case["case_id"], about["protocol"], about["seed"], about["settings"])


def _dense(ct: "NDArray[Any]") -> "NDArray[Any]":
    """A CT as if it were an uptake, so that bone is dark and soft tissue a shade."""
    import numpy as np

    return np.clip((ct.astype(np.float32) + 50) / 60, 0, 10)


def _count(lesions: int) -> str:
    return f"{lesions or 'no'} lesion{'s' * (lesions > 1)}"
