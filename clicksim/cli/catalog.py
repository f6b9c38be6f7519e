"""`clicksim catalog`."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from clicksim.cli import Listing, compare, transfer
from clicksim.cli.crew import batch_options, open_crew
from clicksim.cli.options import OUTPUT, given_options
from clicksim.cli.paths import CatalogPath
from clicksim.errors import counted
from clicksim.files import make_folder

CATALOG = click.argument("catalog", type=CatalogPath())
WRITTEN = click.argument("catalog", type=CatalogPath(writes=True))
JSON = click.option("--json", "as_json", is_flag=True, help="For scripts.")


@click.group("catalog", cls=Listing)
def command() -> None:
    """Show, check and move a catalog.

    \b
    Examples:
      clicksim catalog summary CATALOG
      clicksim catalog check CATALOG --read-data
      clicksim catalog check CATALOG --expect autopet-v
      clicksim catalog query CATALOG "select tracer_class, count(*) from cases group by all"
      clicksim catalog import-prompts CATALOG all_Autopet_III_clicks.zip --run published --protocol autopet-iv@1
      clicksim catalog folds CATALOG --name five
      clicksim catalog audit CATALOG --read-data --out audit.html
      clicksim catalog find CATALOG unnamed.nii.gz
      clicksim catalog relocate CATALOG fdat=/data/PSMA-FDG-PET-CT-Lesions_v2
      clicksim catalog push CATALOG s3://bucket/catalog
    """  # noqa: D301 - click wants the character itself


@command.command()
@CATALOG
@JSON
def summary(catalog: str | Path, as_json: bool) -> None:
    """Show cases, lesions, volumes, tracers, folds, flags and rejections of each source."""
    from clicksim.catalog import open_catalog
    from clicksim.catalog.manage import summarise_catalog

    opened = open_catalog(catalog)
    rows = summarise_catalog(opened)
    if as_json:
        click.echo(json.dumps({"sources": rows, "runs": opened.runs}))
        return
    for row in rows:
        click.echo(row.pop("source"))
        for name, value in row.items():
            text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
            click.echo(f"  {name.replace('_', ' '):18}{'-' if text in (None, '') else text}")
    click.echo(f"prompt runs: {', '.join(opened.runs) or 'none'}")


@command.command()
@CATALOG
@click.option("--read-data", is_flag=True, help="Open every image, and measure the lesions again.")
@click.option("--expect", metavar="COHORT", help="Compare with the numbers of a complete download, such as autopet-v.")
@batch_options("with --read-data, ")
@JSON
def check(
    catalog: str | Path,
    read_data: bool,
    expect: str | None,
    as_json: bool,
    workers: int | str,
    scheduler: str | None,
    resume: bool,
    overwrite: bool,
) -> None:
    """Check that files and tables of the catalog agree; exit code 1 if they do not."""
    from clicksim.audit import check_cohort
    from clicksim.catalog import open_catalog
    from clicksim.findings import format_findings, plain_findings
    from clicksim.pipeline import auditing

    _need_data(read_data)
    with open_crew("patients read", workers, scheduler) as crew:
        findings = auditing.check(catalog, read_data=read_data, crew=crew, resume=resume, overwrite=overwrite)
    figures = check_cohort(open_catalog(catalog), expect) if expect else []
    short = [figure for figure in figures if figure.found != figure.expected]
    if as_json:
        content = {"findings": plain_findings(findings), "figures": [vars(figure) for figure in figures]}
        click.echo(json.dumps(content))
    else:
        for figure in figures:
            mark = "ok" if figure.found == figure.expected else "differs"
            click.echo(f"{mark:10}{figure.name}: {figure.found}, expected {figure.expected}")
        if findings or not short:
            click.echo(format_findings(findings) or "no findings")
    if findings or short:
        click.echo(
            f"clicksim: {counted(len(findings), 'finding')}, {counted(len(short), 'differing figure')}", err=True
        )
        if any(figure.found < figure.expected for figure in short):
            click.echo("clicksim: fewer cases than published: is the download complete?", err=True)
        raise click.exceptions.Exit(1)


def _need_data(read_data: bool) -> None:
    """Reject options that apply only if images are read.

    Raises:
        click.UsageError: Such options are given.
    """
    idle = sorted({"--workers", "--scheduler", "--resume", "--overwrite"}.intersection(given_options()))
    if idle and not read_data:
        raise click.UsageError(f"options that need --read-data: {', '.join(idle)}")


@command.command()
@CATALOG
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@JSON
def find(catalog: str | Path, images: tuple[Path, ...], as_json: bool) -> None:
    """Find the cases of images that have lost their names, by their voxels; exit code 1 if one is not found.

    \b
    Example:
      clicksim catalog find CATALOG unnamed.nii.gz other.mha
    """  # noqa: D301 - click wants the character itself
    import pyarrow as pa

    from clicksim.audit import find_image
    from clicksim.catalog import open_catalog
    from clicksim.volumes import read_image

    opened = open_catalog(catalog)
    found = {image: find_image(opened, read_image(image).array) for image in images}
    rows = [
        {"image": str(image), "source": one.source, "case_id": one.case_id, "role": one.role,
         "axes": "kji" if one.is_reversed else "ijk"}
        for image, cases in found.items() for one in cases
    ]  # fmt: skip
    if rows or as_json:
        names = ("image", "source", "case_id", "role", "axes")
        _print_table(pa.table({name: [row[name] for row in rows] for name in names}), as_json)
    unknown = [str(image) for image, cases in found.items() if not cases]
    for image in unknown:
        click.echo(f"clicksim: no case of {opened.home} has an image with the voxels of {image}", err=True)
    if unknown:
        raise click.exceptions.Exit(1)


@command.command()
@CATALOG
@click.argument("sql")
@JSON
def query(catalog: str | Path, sql: str, as_json: bool) -> None:
    """Query the tables cases, lesions, links, rejected, sources, rounds, folds and prompts in SQL (DuckDB)."""
    from clicksim.catalog import open_catalog

    _print_table(open_catalog(catalog).sql(sql), as_json)


@command.command()
@CATALOG
@JSON
def rejected(catalog: str | Path, as_json: bool) -> None:
    """List what was found but not used, with the reason."""
    from clicksim.catalog import open_catalog

    _print_table(open_catalog(catalog).rejected.select(["source", "path", "case_id", "code", "message"]), as_json)


@command.command()
@CATALOG
@JSON
def runs(catalog: str | Path, as_json: bool) -> None:
    """List runs of prompts and rounds with protocol, settings and cases, and interrupted jobs.

    A command that takes the name of a run also takes `latest`.
    """
    import pyarrow as pa

    from clicksim.catalog import open_catalog
    from clicksim.catalog.run_names import RUN_COLUMNS, list_runs

    rows = list_runs(open_catalog(catalog))
    _print_table(pa.table({name: [row[name] for row in rows] for name in RUN_COLUMNS}), as_json)


@command.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("catalogs", nargs=-1, required=True, type=CatalogPath(writes=True))
@batch_options(cluster=False)
def merge(out: Path, catalogs: tuple[Path, ...], workers: int | str, resume: bool, overwrite: bool) -> None:
    """Merge several catalogs into OUT, such as the shards of a SLURM array."""
    from clicksim.errors import CatalogError
    from clicksim.pipeline.merging import merge_catalogs

    folders = [catalog.resolve() for catalog in catalogs]
    twice = [str(path) for path, folder in zip(catalogs, folders, strict=True) if folders.count(folder) > 1]
    if twice:
        raise CatalogError(f"the same catalog is given several times, as {', '.join(twice[:10])}; name each once")
    with open_crew("folders of images", workers) as crew:
        merged = merge_catalogs(out, catalogs, crew=crew, resume=resume, overwrite=overwrite)
    click.echo(f"{counted(merged.cases.num_rows, 'case')} in {out}")


@command.command()
@CATALOG
@click.option("--bibtex", is_flag=True, help="Print BibTeX.")
def cite(catalog: str | Path, bibtex: bool) -> None:
    """List what a paper that uses these cases must cite, with the licences."""
    from clicksim.catalog import open_catalog
    from clicksim.catalog.manage import cite_sources as cite_catalog

    click.echo(cite_catalog(open_catalog(catalog), bibtex=bibtex))


@command.command()
@WRITTEN
@click.argument("moves", nargs=-1, required=True, metavar="NAME=DIR...")
def relocate(catalog: Path, moves: tuple[str, ...]) -> None:
    """Set the new folder of a source.

    DIR may be a URL. The variable CLICKSIM_ROOT_<NAME> does the same for one process.
    """
    from clicksim.catalog import open_catalog
    from clicksim.catalog.remote.places import as_place
    from clicksim.errors import CatalogError, unknown_name

    opened, places = open_catalog(catalog), {}
    for move in moves:  # all moves are checked before the first is made
        name, equals, folder = move.partition("=")
        if not equals or "/" in name:  # the text is not repeated: it may be an address with a secret
            raise click.UsageError("each move is NAME=DIR, such as fdat=/data/fdat")
        if name not in opened.roots:
            raise unknown_name("root", name, opened.roots)
        if name == "catalog":
            raise CatalogError("the root `catalog` is the catalog's own folder; move the folder itself")
        if not as_place(folder).exists():
            raise CatalogError(f"{folder} does not exist; root {name} is still {opened.roots[name]}")
        places[name] = folder
    with opened.commit() as commit:
        for name, folder in places.items():
            commit.set_root(name, folder)
    roots = open_catalog(catalog).roots
    for name in places:
        click.echo(f"{name} = {roots[name]}")


@command.command("import-prompts")
@WRITTEN
@click.argument("files", type=click.Path(path_type=Path, exists=True))
@click.option("--run", required=True, help="Name of the run.")
@click.option(
    "--kind", type=click.Choice(["click", "scribble"]), default="click", show_default=True, help="Kind of the prompts."
)
@click.option("--protocol", default="", help="The rule that the files follow, for `clicksim verify`.")
@click.option("--seed", type=int, default=42, show_default=True, help="The seed of that rule.")
@click.option("--resume", is_flag=True, help="Continue an interrupted import.")
@click.option("--overwrite", is_flag=True, help="Replace a run of this name.")
def import_prompts(
    catalog: Path, files: Path, run: str, kind: str, protocol: str, seed: int, resume: bool, overwrite: bool
) -> None:
    """Import a ZIP or folder of published prompt FILES as a run, by case name."""
    from clicksim.pipeline.prompt_import import import_prompts as bring

    result = bring(catalog, files, run=run, kind=kind, protocol=protocol, seed=seed, resume=resume, overwrite=overwrite)
    click.echo(f"{counted(result.cases, 'case')} in run {run}")
    for title, names in (("no such case", result.unmatched), ("refused", result.refused), ("no file", result.missing)):
        for name in names:
            click.echo(f"{title}: {name}", err=True)
    if result.unmatched or result.refused:
        raise click.exceptions.Exit(1)


def _print_table(table: Any, as_json: bool) -> None:
    """Print rows as one JSON list; as a table on a terminal; or else in full, separated by tabs."""
    if as_json:
        click.echo(json.dumps(table.to_pylist(), default=str))
        return
    columns = [column.to_pylist() for column in table.columns]  # two of them may have the same name
    rows = [["" if value is None else str(value) for value in row] for row in zip(*columns, strict=True)]
    if not sys.stdout.isatty():
        for line in [table.column_names, *rows]:
            click.echo("\t".join(" ".join(cell.split()) for cell in line))
        return
    from rich.console import Console
    from rich.table import Table

    drawn = Table(*table.column_names)
    for row in rows:
        drawn.add_row(*row)
    Console(markup=False, highlight=False).print(drawn)


@command.command()
@WRITTEN
@click.option("--name", help="Name of the plan; by default its scheme.")
@click.option(
    "--scheme",
    default="stratified",
    show_default=True,
    help="stratified, leave-one-centre-out or leave-one-tracer-out.",
)
@click.option("--folds", "n_folds", default=5, show_default=True, help="Number of folds of a stratified plan.")
@click.option("--seed", default=42, show_default=True, help="Breaks ties between similar patients.")
@click.option("--source", "sources", multiple=True, help="One source of the catalog; repeatable.")
@click.option(
    "--official", default="keep", show_default=True, help="What to do with the publisher's folds: keep or ignore."
)
@JSON
def folds(
    catalog: Path, name: str | None, scheme: str, n_folds: int, seed: int, sources: tuple[str, ...], official: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Draw folds of whole patients, balanced over tracer, scanner, burden and empty cases, and store them."""
    from clicksim.catalog import open_catalog
    from clicksim.catalog.folds import balance, make_folds, write_folds

    idle = sorted({"--folds", "--seed"}.intersection(given_options()))
    if scheme != "stratified" and idle:
        raise click.UsageError(f"options that need --scheme stratified: {', '.join(idle)}")
    opened = open_catalog(catalog)
    plan = make_folds(
        opened, scheme=scheme, n_folds=n_folds, seed=seed, sources=list(sources) or None, official=official
    )
    write_folds(opened, name or scheme, plan)
    table = balance(opened, plan)
    if as_json:
        click.echo(json.dumps({"plan": name or scheme, **plan.about, "balance": table}))
        return
    held_out = sum(row["fold"] is None for row in plan.rows)
    names = [split.left_out or f"fold {split.fold}" for split in plan.splits()]
    click.echo(
        f"plan {name or scheme}: {counted(len(plan.rows), 'case')}, {held_out} held out; validation cases by fold"
    )
    rows = [(r["stratum"], r["value"], *r["folds"], r["spread"]) for r in table]
    _print_text(("stratum", "value", *names, "spread"), rows)


@command.command()
@CATALOG
@click.option(
    "--read-data", is_flag=True, help="Read every image: find near-duplicates and images that differ from rows."
)
@click.option("--out", type=OUTPUT, help="A page (.html) or the rows (.parquet); by default text.")
@batch_options("with --read-data, ")
@JSON
def audit(
    catalog: str | Path,
    read_data: bool,
    out: Path | None,
    as_json: bool,
    workers: int | str,
    scheduler: str | None,
    resume: bool,
    overwrite: bool,
) -> None:
    """Find leakage, outliers and contradictions, and name the cases; exit code 1 if there are errors."""
    from clicksim.audit import checks_made, write_audit_page, write_audit_table
    from clicksim.catalog import open_catalog
    from clicksim.errors import SettingError
    from clicksim.findings import format_findings, plain_findings, worst_severity
    from clicksim.pipeline import auditing

    _need_data(read_data)
    if out is not None and out.suffix not in (".html", ".parquet"):
        raise SettingError(f"--out takes a name that ends in .html or .parquet, got {out.name!r}")
    if out is not None:
        make_folder(out.parent)  # before the work starts
    with open_crew("patients read", workers, scheduler) as crew:
        findings = auditing.audit(catalog, read_data=read_data, crew=crew, resume=resume, overwrite=overwrite)
    if out is not None and out.suffix == ".parquet":
        write_audit_table(out, findings)
    elif out is not None:
        about = "" if read_data else "Images were not read: near-duplicates need --read-data."
        title = f"Audit of {open_catalog(catalog).home.resolve().name}"
        write_audit_page(out, findings, checks=checks_made(read_data=read_data), title=title, about=about)
    if as_json:
        click.echo(json.dumps(plain_findings(findings)))
    else:
        click.echo(f"{format_findings(findings)}\n{counted(len(findings), 'finding')}" if findings else "no findings")
    if worst_severity(findings) == "error":
        raise click.exceptions.Exit(1)


def _print_text(header: Any, rows: Any) -> None:
    """Print columns of text, with numbers aligned to the right."""
    lines = [[str(value) for value in row] for row in (header, *rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(header))]
    for line in lines:
        cells = [f"{cell:{'<' if n < 2 else '>'}{widths[n]}}" for n, cell in enumerate(line)]
        click.echo("  ".join(cells).rstrip())


command.add_command(compare.command)
command.add_command(transfer.push)
command.add_command(transfer.pull)
