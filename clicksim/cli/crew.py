"""Workers of a batch command: processes of this machine or a Dask cluster, with progress on stderr."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from clicksim.cli.options import together
from clicksim.errors import SettingError

if TYPE_CHECKING:
    from clicksim.pipeline.workers import Crew

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
AUTO = "auto"


class Workers(click.ParamType):  # type: ignore[type-arg]
    """A number of processes, or `auto`."""

    name = f"N|{AUTO}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Convert to a number; `auto` is kept."""
        if value == AUTO:
            return AUTO
        number: int = click.IntRange(0).convert(value, param, ctx)
        return number


def batch_options(when: str = "", *, cluster: bool = True, overwrite: bool = True) -> Decorator:
    """Add the options of a batch command: `--workers`, `--scheduler`, `--resume` and `--overwrite`.

    Args:
        when: When they apply; the text before each help.
        cluster: Whether to add `--scheduler`.
        overwrite: Whether to add `--overwrite`.
    """

    def say(words: str) -> str:
        return (when + words)[0].upper() + (when + words)[1:]

    addresses = say("a Dask scheduler, tcp://host:8786, or its --scheduler-file; its workers must see the same files.")
    again = say("replace a result that was made with other settings, and drop the work of an interrupted run.")
    return together(
        click.option(
            "--workers",
            type=Workers(),
            default=0,
            show_default=True,
            help=say("processes; auto takes all available cores, 0 works in this process."),
        ),
        *([click.option("--scheduler", metavar="ADDRESS|FILE.json", help=addresses)] if cluster else []),
        click.option("--resume", is_flag=True, help=say("continue an interrupted run.")),
        *([click.option("--overwrite", is_flag=True, help=again)] if overwrite else []),
    )


@contextmanager
def open_crew(what: str, workers: int | str = 0, scheduler: str | None = None) -> Iterator["Crew"]:
    """Open the workers of a command.

    Args:
        what: What progress counts, in the plural.
        workers: Processes, or `auto`.
        scheduler: A Dask scheduler to use instead, or None.

    Raises:
        SettingError: `scheduler` is neither an address nor a file.
        CatalogError: The scheduler does not answer, or Dask is not installed.
    """
    from clicksim.cli.progress import progress
    from clicksim.pipeline.workers import Crew

    with _open_scheduler(scheduler, workers) as executor, progress(what) as report:
        yield Crew(workers, executor, report, _note)  # type: ignore[arg-type]


def _note(sentence: str) -> None:
    click.echo(f"clicksim: {sentence}", err=True)


@contextmanager
def _open_scheduler(scheduler: str | None, workers: int | str) -> Iterator[Executor | None]:
    if scheduler is None:
        yield None
        return
    if workers:
        raise click.UsageError("--workers starts processes here, but --scheduler has its own workers; give only one")
    if not scheduler.endswith(".json") and ":" not in scheduler:
        raise SettingError(
            "--scheduler takes an address, such as tcp://host:8786, or the file ending in .json that "
            f"dask scheduler --scheduler-file writes, got {scheduler!r}"
        )
    from clicksim.pipeline.cluster import dask_executor

    with dask_executor(scheduler) as executor:
        yield executor
