"""Units of work on a Dask cluster that is running already."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from clicksim.errors import CatalogError

PATIENCE_S = 20
WORKERS_S = 60
"""A scheduler answers at once; its workers may still be starting."""


@contextmanager
def dask_executor(scheduler: str) -> Iterator[Executor]:
    """Connect to a running Dask cluster.

    Args:
        scheduler: Its address, such as `tcp://head:8786`, or the file ending in `.json` that
            `dask scheduler --scheduler-file` writes.

    Raises:
        CatalogError: Dask is not installed, no scheduler answers, no worker joins within a minute, or a worker
            has several threads: if its process dies, nothing shows which of its patients killed it.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise CatalogError("--scheduler needs Dask: pip install 'clicksim[cluster]'") from error
    is_file = scheduler.endswith(".json")
    if is_file and not Path(scheduler).is_file():
        raise CatalogError(f"no scheduler file {scheduler}: start dask scheduler --scheduler-file {scheduler}")
    connect: Any = Client
    try:
        client = connect(timeout=PATIENCE_S, **{"scheduler_file" if is_file else "address": scheduler})
    except (OSError, TimeoutError, ValueError) as error:
        raise CatalogError(
            f"no Dask scheduler answers at {scheduler}: {error}; name its address, such as tcp://head:8786, or the "
            "file that dask scheduler --scheduler-file wrote"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=WORKERS_S)
        except TimeoutError as error:
            raise CatalogError(
                f"no worker has joined the scheduler at {scheduler} in {WORKERS_S} s: start some with dask worker "
                f"{'--scheduler-file ' if is_file else ''}{scheduler} --nthreads 1"
            ) from error
        threads = max(client.nthreads().values(), default=1)
        if threads > 1:
            raise CatalogError(
                f"a worker at {scheduler} has {threads} threads, but only one is allowed: start more workers with one "
                "each (dask worker --nthreads 1)"
            )
        yield ClusterExecutor(client)


class ClusterExecutor(Executor):
    """Submits calls to a cluster and reports how they ended; their results stay there.

    Fetching a result from a worker that dies meanwhile can block for ever, also in Dask's own executor.
    """

    def __init__(self, client: Any) -> None:
        """Use a `distributed.Client`."""
        self._client = client

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a call, even one that was submitted before; the result is None."""
        future: Future[Any] = Future()
        handed_in = self._client.submit(fn, *args, **kwargs, pure=False)
        handed_in.add_done_callback(partial(_pass_on, future))
        return future


def _pass_on(future: Future[Any], done: Any) -> None:
    """End a call as the cluster ended it; a call counts as done even if its result is lost afterwards."""
    if done.status == "cancelled":
        gone = "the Dask scheduler is gone; start it again and continue with --resume"
        future.set_exception(CatalogError(gone))
    elif done.status == "error":
        future.set_exception(done.exception())
    else:
        future.set_result(None)
