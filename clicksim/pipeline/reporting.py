"""Check and draw the cases of a catalog, and write a page about it."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from clicksim.audit import audit_catalog
from clicksim.catalog import open_catalog
from clicksim.catalog.commit import Commit
from clicksim.files import make_folder
from clicksim.pipeline.cases import local_files
from clicksim.pipeline.job import Job, run_job
from clicksim.pipeline.parts import Tables
from clicksim.pipeline.workers import Crew
from clicksim.report.catalog import Selection, select_cases, write_report
from clicksim.report.thumbnails import ThumbnailJob, draw_unit, plan_thumbnails

DRAWN = ("label_path", "pet_path", "ct_path")
"""The columns that name the images of a picture."""


def report(
    catalog: str | Path,
    out: Path,
    *,
    public: bool = False,
    show_head: bool = False,
    cases: int | None = None,
    title: str = "Catalog report",
    crew: Crew | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Check a catalog, draw its cases, and write a page about it.

    Args:
        catalog: Its folder or URL.
        out: The HTML file; replaced when the new one is complete.
        public: Drop names, UIDs, dates and paths, and show ages over 89 as 90.
        show_head: Show the top of cases that are not known to be defaced.
        cases: How many cases are listed; None lists all.
        title: Heading of the page.
        crew: Who draws; by default this process.
        resume: Continue a report that was interrupted, and use its pictures.
        overwrite: Drop the pictures of a report that was interrupted.

    Returns:
        The page.

    Raises:
        CatalogError: There is no catalog or no case, or as `run_job`.
        StorageError: The page cannot be written.
    """
    opened = open_catalog(catalog)
    make_folder(out.parent)
    selection = select_cases(opened, public=public, cases=cases)
    with work_beside(out) as home:
        job = Job(
            name="report",
            home=home,
            identity={"catalog": opened.digest(), "show_head": show_head, "cases": cases},
            units=[
                replace(unit, inputs=local_files(opened, filter(None, (unit.content[name] for name in DRAWN))))
                for unit in plan_thumbnails(opened, selection.keys, selection.runs)
            ],
            work=partial(draw_unit, ThumbnailJob(str(opened.home), show_head)),
            finish=partial(_write_page, out, selection, title),
            records={},
        )
        return run_job(job, crew, resume=resume, overwrite=overwrite)


@contextmanager
def work_beside(out: Path) -> Iterator[Path]:
    """Yield the home of a job whose result is one file: a hidden folder beside it, deleted on success."""
    home = out.with_name(f".{out.name}.work")
    yield home
    shutil.rmtree(home)


def _write_page(
    out: Path, selection: Selection, title: str, tables: Tables, _commit: Commit, _facts: Mapping[str, Any]
) -> Path:
    rows = tables["thumbnails"].to_pylist() if "thumbnails" in tables else []
    pictures = {(row["source"], row["case_id"]): (row["webp"], row["overlay"]) for row in rows}
    return write_report(out, selection, pictures, audit_catalog(selection.catalog), title=title)
