"""`clicksim report`: one self-contained HTML page about a catalog."""

from pathlib import Path

import click

from clicksim.cli.crew import batch_options, open_crew
from clicksim.cli.paths import CatalogPath


@click.command("report")
@click.argument("catalog", type=CatalogPath())
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--public", is_flag=True, help="For publication: no names, UIDs, dates or paths; ages over 89 become 90.")
@click.option("--show-head", is_flag=True, help="Show the top 250 mm of cases that may not be defaced.")
@click.option(
    "--cases", type=click.IntRange(1), help="Number of cases to list, spread evenly; figures count all cases."
)
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

    The page is one file that works without a network. Unless a case is known to be defaced, the top 250 mm of its field
    of view are not drawn.

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
