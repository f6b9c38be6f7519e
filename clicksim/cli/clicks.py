"""`clicksim clicks`."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clicksim.cli.over_catalog import simulate_in_catalog, where_to_run
from clicksim.cli.paths import CatalogPath
from clicksim.cli.runs import DEFAULTS, Run, plan_runs
from clicksim.errors import ClicksimError, StorageError
from clicksim.files import replacing

if TYPE_CHECKING:
    from clicksim.prompts import Prompts
    from clicksim.simulate.annotators import Annotator

FORMATS = {"plain": "_{}.json", "grand-challenge": "_lesion-clicks.json", "rows": "_{}.parquet"}
PICTURES = (".png", ".webp")
IMAGE = click.Path(path_type=Path, exists=True)
INPUT = click.Path(path_type=Path, exists=True, dir_okay=False)
CATALOG = CatalogPath(writes=True)
OUTPUT = click.Path(path_type=Path, dir_okay=False)
Simulate = Callable[[Run, Path], "Prompts"]


@click.command("clicks")
@click.option("--label", type=IMAGE, help="Lesion mask or instance map, or a folder of them.")
@click.option("--catalog", type=CATALOG, help="All cases of a catalog; commits a prompt run, and with --out JSON too.")
@click.option(
    "--pet", type=IMAGE, help="Uptake on the label's grid; for a folder, the folder of <case>_0001 or <case>."
)
@click.option("--organs", type=IMAGE, help="Organ labels on the label's grid, or a folder of them.")
@click.option("--case-id", help="What the case is called; by default the label's name without its ending.")
@click.option("--protocol", help=f"Name and version of the rule.  [default: {DEFAULTS['protocol']}]")
@click.option("--seed", type=int, help=f"Of all draws.  [default: {DEFAULTS['seed']}]")
@click.option("--instances", help="How values become lesions: auto, labels, components or touching.  [default: auto]")
@click.option(
    "--annotator",
    "person",
    metavar="NAME|FILE.toml",
    help="A person who changes the clicks: ideal, careful, hurried, or a fitted one; see clicksim annotators.",
)
@click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="A setting of the protocol; repeatable.")
@click.option("--config", type=INPUT, help="TOML with protocol, seed and settings; options on the line win.")
@click.option(
    "--sweep",
    multiple=True,
    metavar="NAME=A,B,...",
    help="One run per value or combination of settings, seed, protocol or instances; repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Print the settings of each run as TOML and stop.")
@click.option("--save-config", type=OUTPUT, help="Write the effective settings as TOML, for --config.")
@click.option(
    "--out",
    type=click.Path(),
    help="File; for a folder of labels or a sweep, a folder. Without it JSON goes to stdout.",
)
@click.option("--format", "layout", type=click.Choice(list(FORMATS)), default="plain", show_default=True)
@click.option("--preview", type=OUTPUT, help="Draw lesions and clicks on maximum projections, PNG or WebP.")
@click.option("--source", help="With --catalog: one source, such as fdat.  [default: all]")
@where_to_run("With --catalog: ")
def command(
    label: Path | None,
    catalog: Path | None,
    pet: Path | None,
    organs: Path | None,
    case_id: str | None,
    person: str | None,
    pairs: tuple[str, ...],
    config: Path | None,
    sweep: tuple[str, ...],
    dry_run: bool,
    save_config: Path | None,
    out: str | None,
    layout: str,
    preview: Path | None,
    source: str | None,
    workers: int,
    scheduler: str | None,
    resume: bool,
    **given: Any,
) -> None:
    """Simulated foreground and background clicks.

    Without a PET there are no background clicks from uptake, and a line on stderr says so.

    \b
    Examples:
      clicksim clicks --label case.nii.gz --pet case_0001.nii.gz --out case_clicks.json --preview case.png
      clicksim clicks --label case.nii.gz --protocol autopet-iv@1
      clicksim clicks --label labelsTr --pet imagesTr --out clicks --format grand-challenge
      clicksim clicks --label case.nii.gz --set strategy=rim --set n_foreground=3 --save-config my.toml
      clicksim clicks --label case.nii.gz --sweep n_foreground=1,5,10 --sweep strategy=deepest,rim --out sweep
      clicksim clicks --catalog CATALOG --protocol autopet-iv@2 --workers 8
    """  # noqa: D301 - click wants the character itself
    runs = plan_runs(config, given, pairs, sweep)
    if (label is None) == (catalog is None):
        raise click.UsageError("give --label or --catalog, one of them")
    if catalog is not None:
        if pet or organs or case_id or preview or save_config or dry_run:
            raise click.UsageError("--pet, --organs, --case-id, --preview, --save-config, --dry-run go with --label")
        simulate_in_catalog(
            catalog, runs, source, out, layout, workers=workers, scheduler=scheduler, resume=resume, person=person
        )
        return
    if source or workers or scheduler or resume:
        raise click.UsageError("--source, --workers, --scheduler and --resume go with --catalog")
    assert label is not None
    request = Request(label, pet, organs, case_id, out, layout, preview, sweeps=bool(sweep))
    request.check(needs_out=not dry_run, others={"--config": config, "--save-config": save_config})
    if sweep and save_config:
        raise click.UsageError("--save-config is for one run; each run of a sweep writes its settings.toml")
    if save_config:
        write_text(save_config, runs[0].toml())
    if dry_run:
        click.echo("\n".join((f"# {run.slug}\n" if run.slug else "") + run.toml() for run in runs), nl=False)
        return

    model = open_person(person)

    def simulate(run: Run, label: Path) -> "Prompts":
        from clicksim.simulate.case import simulate_case

        uptake, regions = beside(label, pet), beside(label, organs, channel="")
        return simulate_case(
            label, pet=uptake, organs=regions, case_id=case_id, annotator=model, **run.keys, **run.given
        )

    simulate_runs(runs, request, simulate)


@dataclass(frozen=True)
class Request:
    """Where images come from and where clicks go; the attributes are the options."""

    label: Path
    pet: Path | None
    organs: Path | None
    case_id: str | None
    out: str | None
    layout: str
    preview: Path | None
    sweeps: bool
    kind: str = "clicks"

    @property
    def many(self) -> bool:
        """Whether the result is a folder."""
        return self.sweeps or self.label.is_dir()

    @property
    def ending(self) -> str:
        """What the name of a file ends with."""
        return FORMATS[self.layout].format(self.kind)

    def labels(self) -> list[Path]:
        """The label, or the labels of the folder."""
        from clicksim.simulate.case import list_labels

        return list_labels(self.label) if self.label.is_dir() else [self.label]

    def file(self, run: Run, case: str) -> Path | None:
        """Where the clicks of one case go; None for stdout."""
        if self.out is None:
            return None
        return Path(self.out) / run.slug / f"{case}{self.ending}" if self.many else Path(self.out)

    def check(self, *, needs_out: bool, others: dict[str, Path | None]) -> None:
        """Refuse, before any work, what cannot end well."""
        if self.many and needs_out and self.out is None:
            raise click.UsageError("a folder of labels or a sweep needs --out DIR")
        if self.layout == "rows" and needs_out and self.out is None:
            raise click.UsageError("--format rows is a Parquet file and needs --out")
        if self.label.is_dir() and self.case_id is not None:
            raise click.UsageError("--case-id is for one label; in a folder each case has its file's name")
        if self.case_id is not None and (not self.case_id or (self.many and Path(self.case_id).name != self.case_id)):
            raise click.UsageError(f"--case-id {self.case_id!r} cannot be the name of a file")
        if self.many and self.preview:
            raise click.UsageError("--preview is for one label and one run")
        if self.preview and self.preview.suffix.lower() not in PICTURES:
            raise click.UsageError(f"--preview is written as {' or '.join(PICTURES)}, got {self.preview.name!r}")
        self._check_out()
        self._check_distinct(others)

    def _check_out(self) -> None:
        if self.out is None:
            return
        path = Path(self.out)
        if self.many and path.exists() and not path.is_dir():
            raise ClicksimError(f"--out {self.out} is a file; a folder of labels or a sweep needs a folder")
        if not self.many and (path.is_dir() or self.out.endswith(("/", os.sep))):
            from clicksim.volumes import case_id_of

            name = f"{case_id_of(self.label)}{self.ending}"
            raise ClicksimError(f"--out {self.out} is a folder; for one label give a file, such as {path / name}")

    def _check_distinct(self, others: dict[str, Path | None]) -> None:
        """No file is written over another one of the same command."""
        seen: dict[Path, str] = {}
        named = {"--label": self.label, "--pet": self.pet, "--organs": self.organs, **others, "--preview": self.preview}
        written = {"--out": None if self.out is None or self.many else Path(self.out)}
        for option, path in (named | written).items():
            if path is None:
                continue
            other = seen.setdefault(path.resolve(), option)
            if other != option and option in ("--out", "--preview", "--save-config"):
                raise click.UsageError(f"{option} would write over the file of {other}: {path}")


def simulate_runs(runs: Sequence[Run], request: Request, simulate: Simulate) -> None:
    """All cases of all runs; exit code 1 where some were refused."""
    labels = request.labels()
    refused = sum(_simulate_all(run, request, labels, simulate) for run in runs)
    if refused:
        count = len(labels) * len(runs)
        rest = f"; the others are in {request.out}" if refused < count else ""
        click.echo(f"clicksim: {refused} of {count} cases refused, see above{rest}", err=True)
        raise click.exceptions.Exit(1)


def _simulate_all(run: Run, request: Request, labels: Sequence[Path], simulate: Simulate) -> int:
    """All cases of one run; the number of those that were refused. The refusal of a single case is raised."""
    if request.many and request.out is not None:
        write_text(Path(request.out) / run.slug / "settings.toml", run.toml())
    refused = 0
    for label in _tracked(labels, run.slug or "cases"):
        try:
            _finish_one(run, request, label, simulate)
        except ClicksimError as error:
            if not request.many:
                raise
            click.echo(f"clicksim: {' '.join(filter(None, [run.slug, label.name]))}: {error}", err=True)
            refused += 1
    return refused


def _finish_one(run: Run, request: Request, label: Path, simulate: Simulate) -> None:
    """One case, with warnings and notes as lines on stderr."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        prompts = simulate(run, label)
    for sentence in [*(str(warning.message) for warning in caught), *prompts.notes]:
        click.echo(f"{prompts.case_id}: {sentence}", err=True)
    _write(prompts, request.file(run, prompts.case_id), request.layout)
    if request.preview:
        _draw(prompts, label, beside(label, request.pet), request.preview)


def _write(prompts: "Prompts", file: Path | None, layout: str) -> None:
    if file is None:
        click.echo(prompts.to_json(layout))
        return
    with _writing(file):
        if layout == "rows":
            from clicksim.prompts.table import write_table

            write_table(file, prompts.to_table())
        else:
            from clicksim.prompts.formats import write_prompts

            write_prompts(file, prompts, layout)


def _draw(prompts: "Prompts", label: Path, pet: Path | None, preview: Path) -> None:
    from clicksim.report.mip import draw_preview, save_picture
    from clicksim.volumes import read_image, read_label

    uptake = None if pet is None else read_image(pet).array
    image = draw_preview(uptake, read_label(label).array, prompts, grid=prompts.grid, title=prompts.case_id)
    with _writing(preview):
        save_picture(image, preview)


def _tracked(labels: Sequence[Path], what: str) -> Iterator[Path]:
    """The labels, with progress on stderr where there are several."""
    if len(labels) == 1:
        yield labels[0]
        return
    from clicksim.cli.progress import track

    yield from track(labels, what)


def beside(label: Path, path: Path | None, channel: str = "_0001") -> Path | None:
    """The image that belongs to a label: the path itself, or the case's file in that folder."""
    if path is None or not path.is_dir():
        return path
    from clicksim.simulate.case import find_companion

    return find_companion(label, path, channel)


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    """A folder for the file; what the system refuses becomes one sentence that names it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield
    except StorageError:
        raise
    except OSError as error:
        raise ClicksimError(f"cannot write {file}: {error.strerror or error}") from error


def open_person(text: str | None) -> "Annotator | None":
    """The annotator that `--annotator` names."""
    if text is None:
        return None
    from clicksim.simulate.annotator_files import open_annotator

    return open_annotator(text)


def write_text(file: Path, text: str) -> None:
    """Write and rename, so that a reader never sees half a file."""
    with _writing(file), replacing(file) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
