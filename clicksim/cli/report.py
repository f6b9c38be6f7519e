"""`clicksim report`: one self-contained HTML page about a catalog."""

from pathlib import Path

import click

from clicksim.cli.crew import batch_options, open_crew
from clicksim.cli.paths import CatalogPath


@click.command("report")
@click.argument("catalog", type=CatalogPath())
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--public", is_flag=True, help="To be given away: no names, UIDs, dates and paths; 90 for ages over 89.")
@click.option("--show-head", is_flag=True, help="Show the top 250 mm of cases that are not known to be defaced.")
@click.option("--cases", type=click.IntRange(1), help="List so many cases, spread evenly; figures count all of them.")
@batch_options(cluster=False)
def command(
    catalog: str | Path,
    out: Path,
    public: bool,
    show_head: bool,
    cases: int | None,
    workers: int | str,
    resume: bool,
    overwrite: bool,
) -> None:
    """Write a page OUT about CATALOG: figures, all cases with pictures, findings, curves of rounds.

    The page is one file that works without a network. The top 250 mm of the field of view of a case that is not
    known to be defaced are not drawn.

    \b
    Examples:
      clicksim report CATALOG report.html --workers 8
      clicksim report CATALOG public.html --public
    """  # noqa: D301 - click wants the character itself
    from clicksim.pipeline.reporting import report

    with open_crew("pictures", workers) as crew:
        page = report(
            catalog,
            out,
            public=public,
            show_head=show_head,
            cases=cases,
            crew=crew,
            resume=resume,
            overwrite=overwrite,
        )
    click.echo(f"open {page} in a browser")
