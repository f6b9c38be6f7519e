"""`clicksim demo`: synthetic cases, their clicks, and a page to look at them, without any download."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, Protocol

import click

from clicksim.errors import ClicksimError

if TYPE_CHECKING:
    import pyarrow as pa

    from clicksim.phantom import Phantom
    from clicksim.prompts import Prompts
    from clicksim.report.page import PageCase

TITLE = "clicksim demo"
INTRO = (
    "Synthetic whole-body PET/CT with simulated clicks: no patient and no download. Each picture shows the maximum "
    "uptake from the front and from the side, lesions outlined, clicks numbered in the order in which they were made."
)


class Progress(Protocol):
    """What tells the user how far the work is."""

    def __call__(self, step: str) -> None:
        """Say that the next step has begun."""


@click.command("demo")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("clicksim-demo"),
    show_default=True,
    help="Folder for the files; made where it does not exist.",
)
@click.option("--cases", type=click.IntRange(1, 1000), default=4, show_default=True, help="How many cases.")
@click.option("--seed", type=int, default=42, show_default=True, help="Of phantoms and clicks.")
def command(out: Path, cases: int, seed: int) -> None:
    """Make synthetic PET/CT cases, click in them, and write a page to look at.

    FDG and PSMA take turns; the third case has no lesion. Files of the same names in the folder are replaced,
    others are left alone.
    """
    try:
        page = make_demo(out, cases=cases, seed=seed)
    except (ClicksimError, OSError) as error:
        click.echo(f"clicksim demo: {error}", err=True)
        raise click.exceptions.Exit(1) from None
    click.echo(f"open {page} in a browser")


def make_demo(out: Path, *, cases: int = 4, seed: int = 42) -> Path:
    """Write the demo's files to a folder and return the page.

    Per case `<case>_ct.nii.gz`, `<case>_pet.nii.gz`, `<case>_label.nii.gz`, `<case>_clicks.json` and
    `<case>.png`; for all of them `clicks.parquet` and `index.html`.
    """
    from clicksim.report.page import write_page

    out.mkdir(parents=True, exist_ok=True)
    shown: list[PageCase] = []
    tables: list[pa.Table] = []
    with _progress(4 * cases + 1) as say:
        for number in range(cases):
            case, prompts = _make_case(out, number, seed, say)
            shown.append(case)
            tables.append(prompts.to_table())
        say("page")
        _write_table(out / "clicks.parquet", tables)
        return write_page(
            out / "index.html",
            shown,
            title=TITLE,
            intro=INTRO,
            command=f"clicksim demo --out {quote(str(out))} --cases {cases} --seed {seed}",
        )


def _make_case(out: Path, number: int, seed: int, say: Progress) -> tuple["PageCase", "Prompts"]:
    """One phantom, its clicks, and their files."""
    from clicksim import simulate_clicks, write_image
    from clicksim.phantom import make_phantom
    from clicksim.report.mip import draw_preview, save_picture
    from clicksim.report.page import PageCase

    say(f"case {number + 1}: phantom")
    phantom = make_phantom(seed + number, tracer=("fdg", "psma")[number % 2], n_lesions=_lesions(number, seed))
    name = phantom.case_id
    say(f"{name}: images")
    files = {f"{name}_{kind}.nii.gz": getattr(phantom, kind) for kind in ("ct", "pet", "label")}
    for file, array in files.items():
        write_image(out / file, array, phantom.grid)
    say(f"{name}: clicks")
    drawn = simulate_clicks(phantom.label, uptake=phantom.pet, spacing=phantom.grid.spacing, case_id=name, seed=seed)
    prompts = replace(drawn, grid=phantom.grid)
    clicks = f"{name}_clicks.json"
    _write_text(out / clicks, prompts.to_json("plain"))
    say(f"{name}: picture")
    picture = draw_preview(phantom.pet, phantom.label, prompts, grid=phantom.grid, title=_title(phantom, prompts))
    save_picture(picture, out / f"{name}.png")
    case = PageCase(
        prompts,
        picture,
        tracer=phantom.tracer,
        n_lesions=phantom.n_lesions,
        volume_ml=float((phantom.label > 0).sum()) * phantom.grid.voxel_ml,
        files=[*files, clicks],
    )
    return case, prompts


def _lesions(number: int, seed: int) -> int:
    """Between 3 and 14 lesions, and none in every fourth case from the third on: an empty case belongs to any set."""
    from clicksim.streams import stream

    return 0 if number % 4 == 2 else int(stream(seed, "demo", "lesions", number).integers(3, 15))


def _title(phantom: "Phantom", prompts: "Prompts") -> str:
    """Such as `fdg_phantom0042, 1 lesion, autopet-iv@2`."""
    count = "no lesion" if not phantom.n_lesions else f"{phantom.n_lesions} lesion{'s' * (phantom.n_lesions > 1)}"
    return f"{phantom.case_id}, {count}, {prompts.protocol}"


def _write_text(path: Path, text: str) -> None:
    """Write and rename, so that a reader never sees half a file."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    temporary.replace(path)


def _write_table(path: Path, tables: "Sequence[pa.Table]") -> None:
    """All clicks as one Parquet table; the metadata is that of the first case."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    temporary = path.with_name(f".{path.name}.partial")
    pq.write_table(pa.concat_tables(tables), temporary)
    temporary.replace(path)


@contextmanager
def _progress(steps: int) -> Iterator[Progress]:
    """A bar on a terminal, plain lines elsewhere; both on stderr."""
    if not sys.stderr.isatty():
        yield lambda step: click.echo(step, err=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns: Any = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=steps, completed=-1)

        def say(step: str) -> None:
            bar.update(task, advance=1, description=step)

        yield say
