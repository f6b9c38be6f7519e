"""What `clicksim clicks` and `clicksim scribbles` do alike: check the request, simulate each case, write, draw."""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clicksim.cli.asked_runs import AskedRun, plan_runs
from clicksim.cli.paths import check_distinct, making_folder, write_result
from clicksim.errors import ClicksimError, ImageError, counted
from clicksim.files import PICTURE_ENDINGS, PROMPT_ENDINGS

if TYPE_CHECKING:
    from clicksim.prompts import Prompts
    from clicksim.volumes import Volume

Simulate = Callable[[AskedRun, Path], "Prompts"]


@dataclass(frozen=True)
class Request:
    """Where images come from and where prompts go; most attributes are options of both commands.

    Attributes:
        kind: `clicks` or `scribbles`: the command, the protocol's table and the ending of files.
        alone: Options of the command that go with `--label` only, with their values.
    """

    kind: str
    alone: Mapping[str, Any]
    label: Path | None
    catalog: Path | None
    case_id: str | None
    protocol: str | None
    seed: int | None
    instances: str | None
    annotator: str | None
    pairs: tuple[str, ...]
    config: Path | None
    sweep: tuple[str, ...]
    dry_run: bool
    save_config: Path | None
    out: str | None
    layout: str
    preview: Path | None
    source: str | None
    workers: int
    scheduler: str | None
    resume: bool

    def prepare(self, defaults: Mapping[str, Any]) -> list[AskedRun]:
        """The runs that are left to simulate: none where they ran over a catalog, or were to be printed only.

        Raises:
            SettingError: As `plan_runs`.
            click.UsageError: Options that do not go together.
        """
        options = {name: getattr(self, name) for name in ("protocol", "seed", "instances", "annotator")}
        runs = plan_runs(self.config, options, self.pairs, self.sweep, table=self.kind, defaults=defaults)
        if (self.label is None) == (self.catalog is None):
            raise click.UsageError("give --label or --catalog, one of them")
        if self.catalog is not None:
            self._simulate_catalog(self.catalog, runs)
            return []
        given = [f"--{name}" for name in ("source", "workers", "scheduler", "resume") if getattr(self, name)]
        if given:
            raise click.UsageError(f"only with --catalog: {', '.join(given)}")
        self._check()
        if self.save_config:
            write_result(self.save_config, runs[0].toml())
        if self.dry_run:
            click.echo("\n".join((f"# {run.slug}\n" if run.slug else "") + run.toml() for run in runs), nl=False)
            return []
        return runs

    def _simulate_catalog(self, catalog: Path, runs: Sequence[AskedRun]) -> None:
        from clicksim.cli.over_catalog import simulate_in_catalog

        more = {"--preview": self.preview, "--save-config": self.save_config, "--dry-run": self.dry_run}
        given = [option for option, value in {**self.alone, **more}.items() if value]
        if given:
            raise click.UsageError(f"only with --label: {', '.join(given)}")
        if self.layout != "plain" and self.out is None:
            raise click.UsageError("--format is that of files, and with --catalog only --out DIR writes some")
        simulate_in_catalog(
            catalog,
            runs,
            self.source,
            self.out,
            self.layout,
            workers=self.workers,
            scheduler=self.scheduler,
            resume=self.resume,
        )

    @property
    def many(self) -> bool:
        """Whether the result is a folder."""
        return bool(self.sweep) or self._folder

    @property
    def _folder(self) -> bool:
        return self.label is not None and self.label.is_dir()

    @property
    def ending(self) -> str:
        """What the name of a file ends with."""
        return PROMPT_ENDINGS[self.layout].format(self.kind)

    def labels(self) -> list[Path]:
        """The label, or the labels of the folder."""
        from clicksim.volumes.case import list_labels

        if self.label is None:
            return []
        return list_labels(self.label) if self._folder else [self.label]

    def file(self, run: AskedRun, case: str) -> Path | None:
        """Where the clicks of one case go; None for stdout."""
        if self.out is None:
            return None
        return Path(self.out) / run.slug / f"{case}{self.ending}" if self.many else Path(self.out)

    def _check(self) -> None:
        """Refuse, before any work, what cannot end well."""
        needs_out = not self.dry_run
        if self.many and needs_out and self.out is None:
            raise click.UsageError("a folder of labels or a sweep needs --out DIR")
        if self.layout == "rows" and needs_out and self.out is None:
            raise click.UsageError("--format rows is a Parquet file and needs --out")
        if self._folder and self.case_id is not None:
            raise click.UsageError("--case-id is for one label; in a folder each case has its file's name")
        if self.case_id is not None and (not self.case_id or (self.many and Path(self.case_id).name != self.case_id)):
            raise click.UsageError(f"--case-id {self.case_id!r} cannot be the name of a file")
        if self.many and self.preview:
            raise click.UsageError("--preview is for one label and one run")
        if self.preview and self.preview.suffix.lower() not in PICTURE_ENDINGS:
            endings = " or ".join(PICTURE_ENDINGS)
            raise click.UsageError(f"--preview is written as {endings}, got {self.preview.name!r}")
        pet = self.alone.get("--pet")
        if self.label is not None and pet is not None and pet.resolve() == self.label.resolve():
            raise ClicksimError(f"--pet is the label itself, {pet}; it takes a PET with SUV")
        self._check_out()
        self._check_distinct()
        if self.sweep and self.save_config:
            raise click.UsageError("--save-config is for one run; each run of a sweep writes its settings.toml")

    def _check_out(self) -> None:
        if self.out is None:
            return
        path = Path(self.out)
        if self.many and path.exists() and not path.is_dir():
            raise ClicksimError(f"--out {self.out} is a file; a folder of labels or a sweep needs a folder")
        if not self.many and (path.is_dir() or self.out.endswith(("/", os.sep))):
            from clicksim.volumes import case_id_of

            name = f"{case_id_of(self.labels()[0])}{self.ending}"
            raise ClicksimError(f"--out {self.out} is a folder; for one label give a file, such as {path / name}")

    def _check_distinct(self) -> None:
        """No file is written over another one of the same command."""
        out = None if self.out is None or self.many else Path(self.out)
        person = Path(self.annotator) if self.annotator is not None and self.annotator.endswith(".toml") else None
        check_distinct(
            {"--label": self.label, **self.alone, "--annotator": person, "--config": self.config},
            {"--save-config": self.save_config, "--preview": self.preview, "--out": out},
        )


def simulate_runs(runs: Sequence[AskedRun], request: Request, simulate: Simulate) -> None:
    """All cases of all runs, of which there may be none; exit code 1 where some were refused."""
    if not runs:
        return
    labels = request.labels()
    _check_companions(request, labels)
    said: set[str] = set()
    refused = sum(_simulate_all(run, request, labels, simulate, said) for run in runs)
    if refused:
        count = len(labels) * len(runs)
        rest = f"; the others are in {request.out}" if refused < count else ""
        click.echo(f"clicksim: {refused} of {counted(count, 'case')} refused, see above{rest}", err=True)
        raise click.exceptions.Exit(1)


def _check_companions(request: Request, labels: Sequence[Path]) -> None:
    """Refuse a folder that has no image for any of several cases: once, not case by case."""
    for option, folder in request.alone.items():
        if len(labels) == 1 or not isinstance(folder, Path) or not folder.is_dir():
            continue
        first = ""
        for label in labels:
            try:
                beside(label, folder, "_0001" if option == "--pet" else "")
                break
            except ImageError as error:
                first = first or str(error)
        else:
            raise ClicksimError(f"{option}: {first}; none of the {len(labels)} cases has one there")


def _simulate_all(run: AskedRun, request: Request, labels: Sequence[Path], simulate: Simulate, said: set[str]) -> int:
    """All cases of one run; the number of those that were refused. The refusal of a single case is raised."""
    if request.many and request.out is not None:
        write_result(Path(request.out) / run.slug / "settings.toml", run.toml())
    refused = 0
    for label in _tracked(labels, run.slug or "cases"):
        try:
            _finish_one(run, request, label, simulate, said)
        except ClicksimError as error:
            if not request.many:
                raise
            click.echo(f"clicksim: {' '.join(filter(None, [run.slug, label.name]))}: {error}", err=True)
            refused += 1
    return refused


def _finish_one(run: AskedRun, request: Request, label: Path, simulate: Simulate, said: set[str]) -> None:
    """One case, with warnings and notes as lines on stderr, each once for all runs of a sweep."""
    from clicksim.volumes.case import read_pet

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        prompts = simulate(run, label)
    uptake: Volume | None = None
    doubts: tuple[str, ...] = ()
    if request.preview and (pet := beside(label, request.alone["--pet"])):
        uptake, doubts = read_pet(pet)
    for sentence in [*(str(warning.message) for warning in caught), *prompts.notes, *doubts]:
        line = f"{prompts.case_id}: {sentence}"
        if line not in said:
            said.add(line)
            click.echo(line, err=True)
    _write(prompts, request.file(run, prompts.case_id), request.layout)
    if request.preview:
        _draw(prompts, label, uptake, request.preview)


def _write(prompts: "Prompts", file: Path | None, layout: str) -> None:
    if file is None:
        click.echo(prompts.to_json(layout))
        return
    if layout == "rows":
        from clicksim.prompts.table import write_prompt_table

        write_prompt_table(file, prompts.to_table())
    else:
        from clicksim.prompts.prompt_files import write_prompts

        write_prompts(file, prompts, layout)


def _draw(prompts: "Prompts", label: Path, pet: "Volume | None", preview: Path) -> None:
    from clicksim.report.mip import draw_preview, save_picture
    from clicksim.volumes import read_label

    uptake = None if pet is None else pet.array
    image = draw_preview(uptake, read_label(label).array, prompts, grid=prompts.grid, title=prompts.case_id)
    with making_folder(preview):
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
    from clicksim.volumes.case import find_companion

    return find_companion(label, path, channel)
