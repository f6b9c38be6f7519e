"""Shared code of `clicksim clicks` and `clicksim scribbles`: check the request, run it, print the result."""

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clicksim.cli.asked_runs import AskedRun, plan_runs
from clicksim.cli.crew import open_crew
from clicksim.cli.paths import check_distinct, making_folder, write_result
from clicksim.errors import ClicksimError, SettingError, counted
from clicksim.files import PICTURE_ENDINGS, PROMPT_ENDINGS, clear_abandoned

if TYPE_CHECKING:
    from clicksim.pipeline.conversion import Summary
    from clicksim.pipeline.simulation import PromptRun
    from clicksim.prompts import Prompts
    from clicksim.volumes.case import CaseImages


@dataclass(frozen=True, kw_only=True)
class Request:
    """Inputs and outputs of a command; most attributes are options of both commands.

    Attributes:
        kind: `clicks` or `scribbles`: the command, the protocol's table and the ending of files.
        companions: By role, images that need `--label`: a file or a folder.
        drawn: Images that are read only for the preview.
        number: The round of a correction.
    """

    kind: str
    companions: Mapping[str, Path | None]
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
    run: str | None
    as_json: bool
    workers: int | str
    scheduler: str | None
    resume: bool
    overwrite: bool
    drawn: tuple[str, ...] = ()
    number: int = 0

    def carry_out(self, defaults: Mapping[str, Any]) -> None:
        """Carry out the request; exit code 1 if a case was refused.

        Raises:
            SettingError: See `plan_runs`.
            click.UsageError: Options do not fit together.
        """
        options = {name: getattr(self, name) for name in ("protocol", "seed", "instances", "annotator")}
        runs = plan_runs(self.config, options, self.pairs, self.sweep, table=self.kind, defaults=defaults)
        self._check_runs(runs)
        if (self.label is None) == (self.catalog is None):
            raise click.UsageError("give either --label or --catalog")
        if self.catalog is not None:
            self._simulate_catalog(self.catalog, runs)
            return
        self._check()
        if self.save_config:
            write_result(self.save_config, runs[0].toml())
        if self.dry_run:
            click.echo("\n".join((f"# {run.slug}\n" if run.slug else "") + run.toml() for run in runs), nl=False)
        elif self.many:
            self._simulate_folder(runs)
        else:
            self._simulate_one(runs[0])

    def _check_runs(self, runs: Sequence[AskedRun]) -> None:
        correcting = self.companions.get("prediction") is not None
        if self.number and not correcting:
            raise click.UsageError("--round has no effect without --prediction")
        if correcting and any(run.keys["instances"] != "auto" for run in runs):
            raise click.UsageError("--instances has no effect with --prediction: errors are split into components")

    def _simulate_catalog(self, catalog: Path, runs: Sequence[AskedRun]) -> None:
        """Make one prompt run of the catalog per combination of settings."""
        from clicksim.pipeline.simulation import simulate_catalog

        more = {"--preview": self.preview, "--save-config": self.save_config, "--dry-run": self.dry_run}
        alone = {f"--{role}": path for role, path in self.companions.items()}
        self._check_effect({**alone, "--case-id": self.case_id, **more}, "options that need --label")
        if self.layout != "plain" and self.out is None:
            raise click.UsageError("--format applies to files; with --catalog, only --out DIR writes files")
        if self.run is not None and len(runs) > 1:
            raise click.UsageError("--run names one run; each run of a sweep gets its own name")
        if any(run.keys["instances"] != "auto" for run in runs):
            raise SettingError("a catalog records how the labels of each case are read; leave --instances at auto")
        with open_crew("patients", self.workers, self.scheduler) as crew:
            found = simulate_catalog(
                catalog,
                [as_prompt_run(run) for run in runs],
                source=self.source,
                out=None if self.out is None else Path(self.out),
                layout=self.layout,
                name=self.run,
                crew=crew,
                resume=self.resume,
                overwrite=self.overwrite,
            )
        self._print_runs(catalog, found)

    def _print_runs(self, catalog: Path, found: "Mapping[str, Summary]") -> None:
        if self.as_json:
            click.echo(json.dumps({run: vars(summary) for run, summary in found.items()}))
        for run, summary in found.items():
            if not self.as_json:
                click.echo(f"run {run}: {counted(summary.cases, 'case')}, {summary.rejected} refused")
            if summary.noted:
                told = f"notes on {summary.noted} of {counted(summary.cases, 'case')} are in {catalog}/runs/{run}.json"
                click.echo(f"clicksim: {told}", err=True)
        if any(summary.rejected for summary in found.values()):
            click.echo(f"clicksim: the reasons are in {catalog}/runs", err=True)
            raise click.exceptions.Exit(1)

    def _simulate_folder(self, runs: Sequence[AskedRun]) -> None:
        """Write a file for each case of each run."""
        from clicksim.pipeline.simulation import simulate_cases

        with open_crew("cases", self.workers, self.scheduler) as crew:
            rows = simulate_cases(
                self._units(),
                [self._prompt_run(run) for run in runs],
                Path(str(self.out)),
                roles=self._roles(runs),
                layout=self.layout,
                crew=crew,
                resume=self.resume,
                overwrite=self.overwrite,
            )
        if self.as_json:
            click.echo(json.dumps(rows))
        said: set[str] = set()
        for row in rows:
            name = " ".join(filter(None, [row["run"], row["case_id"]]))
            if row["refused"]:
                click.echo(f"clicksim: {name}: {row['refused']}", err=True)
            self._say(row["case_id"], row["notes"], said)
        if refused := sum(row["refused"] is not None for row in rows):
            rest = f"; the others are in {self.out}" if refused < len(rows) else ""
            click.echo(f"clicksim: {refused} of {counted(len(rows), 'case')} refused, see above{rest}", err=True)
            raise click.exceptions.Exit(1)

    def _simulate_one(self, run: AskedRun) -> None:
        """Simulate one case, to stdout or a file."""
        from clicksim.pipeline.simulation import write_prompts_as

        ((entry,),) = [unit.content for unit in self._units()]
        case = entry.open(None, self._roles([run]))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            prompts = self._prompt_run(run).make(case, entry)
        notes = [*(str(warning.message) for warning in caught), *prompts.notes]
        shown = entry.open(None, ("label", "pet")) if self.preview else case
        uptake = shown.pet if self.preview else None
        notes += [note for note in shown.notes if note not in notes]
        self._say(prompts.case_id, notes, set())
        if self.out is None:
            click.echo(prompts.to_json(self.layout))
        else:
            clear_abandoned(Path(self.out))
            write_prompts_as(Path(self.out), prompts, self.layout)
        if self.preview:
            _draw(prompts, case, None if uptake is None else uptake.array, self.preview)

    def _say(self, case_id: str, notes: Sequence[str], said: set[str]) -> None:
        """Print each note once, as a line on stderr."""
        for note in notes:
            line = f"{case_id}: {note}"
            if line not in said:
                said.add(line)
                click.echo(line, err=True)

    def _units(self) -> "list[Any]":
        from clicksim.pipeline.cases import file_units, folder_units

        if self.label is None:
            return []
        if self._folder:
            return folder_units(self.label, self.companions)
        return file_units([self.label], self.companions, case_id=self.case_id)

    def _roles(self, runs: Sequence[AskedRun]) -> tuple[str, ...]:
        """Return the images to read; those needed only for pictures are left out unless an annotator sees them."""
        given = [role for role, path in self.companions.items() if path is not None]
        person = any(run.annotator is not None for run in runs)
        return ("label", *(role for role in given if person or role not in self.drawn))

    def _prompt_run(self, run: AskedRun) -> "PromptRun":
        return replace(as_prompt_run(run), round=self.number)

    @property
    def many(self) -> bool:
        """Whether the output is a folder."""
        return bool(self.sweep) or self._folder

    @property
    def _folder(self) -> bool:
        return self.label is not None and self.label.is_dir()

    @property
    def ending(self) -> str:
        """The ending of file names."""
        return PROMPT_ENDINGS[self.layout].format(self.kind)

    def _check(self) -> None:
        """Reject invalid requests before any work."""
        self._check_effect({"--source": self.source, "--run": self.run}, "options that need --catalog")
        if not self.many:
            batch = {"--workers": self.workers, "--scheduler": self.scheduler, "--resume": self.resume}
            batch["--overwrite"] = self.overwrite
            self._check_effect(batch, "options that need --catalog, a folder of labels or a sweep")
        needs_out = not self.dry_run
        if self.many and needs_out and self.out is None:
            raise click.UsageError("a folder of labels or a sweep needs --out DIR")
        if self.layout == "rows" and needs_out and self.out is None:
            raise click.UsageError("--format rows is a Parquet file and needs --out")
        if self._folder and self.case_id is not None:
            raise click.UsageError("--case-id is for one label; in a folder each case is named after its file")
        if self.case_id is not None and (not self.case_id or (self.many and Path(self.case_id).name != self.case_id)):
            raise click.UsageError(f"--case-id {self.case_id!r} cannot be the name of a file")
        if self.many and self.preview:
            raise click.UsageError("--preview is for one label and one run")
        if self.preview and self.preview.suffix.lower() not in PICTURE_ENDINGS:
            endings = " or ".join(PICTURE_ENDINGS)
            raise click.UsageError(f"--preview is written as {endings}, got {self.preview.name!r}")
        pet = self.companions.get("pet")
        if self.label is not None and pet is not None and pet.resolve() == self.label.resolve():
            raise ClicksimError(f"--pet is the same file as --label, {pet}; give a PET in SUV")
        self._check_out()
        self._check_distinct()
        if self.sweep and self.save_config:
            raise click.UsageError("--save-config is for one run; each run of a sweep writes its settings.toml")

    def _check_effect(self, options: Mapping[str, Any], when: str) -> None:
        """Reject options without effect."""
        if given := [name for name, value in options.items() if value]:
            raise click.UsageError(f"{when}: {', '.join(given)}")

    def _check_out(self) -> None:
        if self.out is None:
            return
        path = Path(self.out)
        if self.many and path.exists() and not path.is_dir():
            raise ClicksimError(f"--out {self.out} is a file; a folder of labels or a sweep needs a folder")
        if not self.many and (path.is_dir() or self.out.endswith(("/", os.sep))):
            from clicksim.volumes import case_id_of

            name = f"{case_id_of(Path(str(self.label)))}{self.ending}"
            raise ClicksimError(f"--out {self.out} is a folder; for one label give a file, such as {path / name}")

    def _check_distinct(self) -> None:
        """Check that no output overwrites another file of the same command."""
        out = None if self.out is None or self.many else Path(self.out)
        images = {f"--{role}": path for role, path in self.companions.items()}
        named = {"--annotator": self.annotator, "--protocol": self.protocol}
        files = {name: Path(text) for name, text in named.items() if text is not None and text.endswith(".toml")}
        check_distinct(
            {"--label": self.label, **images, **files, "--config": self.config},
            {"--save-config": self.save_config, "--preview": self.preview, "--out": out},
        )


def as_prompt_run(run: AskedRun) -> "PromptRun":
    """Convert a requested run for the library."""
    from clicksim.pipeline.simulation import PromptRun

    keys = run.keys
    return PromptRun(
        run.protocol,
        keys["seed"],
        run.given,
        table=run.table,
        annotator=run.annotator,
        instances=keys["instances"],
        folder=run.slug,
        text=run.toml(),
    )


def _draw(prompts: "Prompts", case: "CaseImages", uptake: Any, preview: Path) -> None:
    from clicksim.report.mip import draw_preview, save_picture

    image = draw_preview(uptake, case.label.array, prompts, grid=prompts.grid, title=prompts.case_id)
    with making_folder(preview):
        save_picture(image, preview)
