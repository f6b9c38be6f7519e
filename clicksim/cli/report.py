"""`clicksim report`: one self-contained HTML page about a catalog."""

from functools import partial
from pathlib import Path

import click

from clicksim.cli.paths import CatalogPath
from clicksim.files import make_folder


@click.command("report")
@click.argument("catalog", type=CatalogPath())
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--public", is_flag=True, help="To be given away: no names, UIDs, dates and paths; 90 for ages over 89.")
@click.option("--show-head", is_flag=True, help="Show the top 250 mm of cases that are not known to be defaced.")
@click.option("--workers", type=click.IntRange(0), default=0, show_default=True, help="Processes; 0 works in this one.")
@click.option("--cases", type=click.IntRange(1), help="List so many cases, spread evenly; figures count all of them.")
@click.option("--resume", is_flag=True, help="Go on with a report that was interrupted.")
def command(
    catalog: str | Path, out: Path, public: bool, show_head: bool, workers: int, cases: int | None, resume: bool
) -> None:
    """Write a page OUT about CATALOG: figures, all cases with pictures, findings, curves of rounds.

    The page is one file that works without a network. The top 250 mm of the field of view of a case that is not
    known to be defaced are not drawn.

    \b
    Examples:
      clicksim report CATALOG report.html --workers 8
      clicksim report CATALOG public.html --public
    """  # noqa: D301 - click wants the character itself
    page = make_report(catalog, out, public=public, show_head=show_head, workers=workers, cases=cases, resume=resume)
    click.echo(f"open {page} in a browser")


def make_report(
    catalog: str | Path,
    out: Path,
    *,
    public: bool = False,
    show_head: bool = False,
    workers: int = 0,
    cases: int | None = None,
    resume: bool = False,
    title: str = "Catalog report",
) -> Path:
    """Check a catalog, draw its cases, and write the page.

    Args:
        catalog: Its folder or URL.
        out: The HTML file.
        public: Drop names, UIDs, dates and paths, and show ages over 89 as 90.
        show_head: Show the top of cases that are not known to be defaced.
        workers: Processes that draw; 0 works in this one.
        cases: How many cases are listed; None lists all.
        resume: Take up the pictures of a report that was interrupted.
        title: Heading of the page.

    Raises:
        CatalogError: No catalog, no cases, or parts of an interrupted report, and `resume` was not asked for.
    """
    from clicksim.audit import audit_catalog
    from clicksim.catalog import open_catalog
    from clicksim.cli.progress import progress
    from clicksim.pipeline.units import Parts
    from clicksim.report.catalog import ReportFinding, select_cases, write_report
    from clicksim.report.thumbnails import ThumbnailJob, draw_unit, plan_thumbnails

    opened = open_catalog(catalog)
    make_folder(out.parent)
    selection = select_cases(opened, public=public, cases=cases)
    findings = [ReportFinding(f.severity, f.check, f.cases, f.detail) for f in audit_catalog(opened)]
    units = plan_thumbnails(opened, selection.keys, selection.runs)
    job = {"catalog": opened.digest(), "show_head": show_head, "cases": cases}
    parts = Parts(out.with_name(f".{out.name}.parts"), job, resume=resume)
    with progress("pictures") as report:
        work = partial(draw_unit, ThumbnailJob(str(opened.home), show_head))
        parts.run(units, work, workers=workers, progress=report)
    drawn = parts.gather(units, {}).get("thumbnails")
    rows = [] if drawn is None else drawn.to_pylist()
    pictures = {(row["source"], row["case_id"]): (row["webp"], row["overlay"]) for row in rows}
    page = write_report(out, selection, pictures, findings, title=title)
    parts.remove()
    return page
