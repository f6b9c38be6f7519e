"""`python -m studies.scale`: convert many small cases and simulate clicks, in four ways; writes docs/scale.md.

The study compares the catalogs of all ways byte by byte. Each step of each way runs in a fresh process. It records the
peak memory of itself and of its workers after a tenth of the patients, after all of them, and when the catalog is
written.
"""

import argparse
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.bench_data import ROOT, show_shape
from benchmarks.result_table import Section
from benchmarks.timing import read_status
from clicksim.catalog import open_catalog
from clicksim.pipeline.merging import merge_catalogs

PAGE = ROOT / "docs" / "scale.md"
CASES = 2_000
SHAPE, SPACING, LESIONS = (24, 20, 30), (18.0, 18.0, 20.0), (1, 3)
PROTOCOL = "autopet-iv@2"
PROCESSES, SHARDS = 2, 3
STEPS = ("convert", "clicks")
BAR = 1.05
THROUGHPUT = """Cases per second, from the start of a step to the written catalog, without the start of Python. The
shards ran one after the other, and their seconds are added. Everything ran on one machine, so the cluster shows its
overhead and not its benefit."""
MEMORY = """The highest resident memory (`VmHWM`) of each process since its start, after about {tenth} cases, after
{cases} cases, and when the catalog was written. For a shard, it is after a tenth and after all of its own cases.
"ratio" is the second value divided by the first. The last column includes the tables, which are joined, sorted and
written. Dask's profiler is off, because the memory that it uses grows with time."""
MEMORY_HEADER = ("way", "step", "process", "after a tenth", "after all", "ratio", "bar", "met", "catalog written")
WAYS = {
    "here": "in-process",
    "processes": f"{PROCESSES} processes",
    "shards": f"{SHARDS} shards, merged",
    "cluster": f"Dask cluster of {PROCESSES} workers",
}


@dataclass
class Step:
    """One step of one way.

    Attributes:
        seconds: From its start to the written catalog, without the start of Python.
        own, workers: Peak resident bytes of the process, and of its largest worker: after a tenth of the patients,
            after all of them, and (only `own`) when the catalog was written. Empty if the system does not report it.
    """

    seconds: float = 0.0
    own: list[int] = field(default_factory=list)
    workers: list[int] = field(default_factory=list)


@dataclass
class Way:
    """The result of one way: its catalog, and its steps by name; a shard is a step."""

    catalog: Path
    steps: dict[str, Step]
    merge_s: float = 0.0


def main(arguments: list[str] | None = None) -> None:
    """Run everything and write the page.

    Raises:
        SystemExit: The catalogs differ, or memory exceeded the bar.
    """
    parser = argparse.ArgumentParser(prog="python -m studies.scale", description=__doc__)
    parser.add_argument("--cases", type=int, default=CASES, help="number of cases")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page to write")
    parser.add_argument("--work", type=Path, help="an empty folder that is kept; by default a temporary one")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        ways = run_ways(given.work or Path(folder), given.cases)
        differing = find_differences({name: way.catalog for name, way in ways.items()})
        given.out.write_text(page(ways, differing, given.cases), encoding="utf-8")
    print(f"written: {given.out}", file=sys.stderr)
    if differing or any(ratio > BAR for ratio in growth(ways)):
        raise SystemExit(1)


def run_ways(folder: Path, cases: int) -> dict[str, Way]:
    """Write the cases below a folder, and process them in all ways."""
    source = write_cases(folder / "source", cases)
    ways = {}
    for name in WAYS:
        started = time.monotonic()
        ways[name] = run_way(name, source, folder / name)
        print(f"{WAYS[name]}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    return ways


def write_cases(folder: Path, cases: int) -> Path:
    """Write phantoms on tiny grids in the layout of fdat; six patients have seven cases.

    Raises:
        ValueError: No number of patients has this number of cases.
    """
    from clicksim.phantom.layouts import write_fdat

    patients = -(-cases * 6 // 7)
    patients -= patients + -(-patients // 6) > cases
    tree = write_fdat(folder, patients=patients, shape=SHAPE, spacing=SPACING, lesions=LESIONS)
    if len(tree.cases) != cases:
        raise ValueError(f"{patients} patients have {len(tree.cases)} cases, not {cases}; use one more case")
    return folder


def run_way(name: str, source: Path, folder: Path) -> Way:
    """Convert and simulate clicks, each step in a fresh process."""
    if name == "shards":
        steps, parts = {}, [folder / str(n) for n in range(SHARDS)]
        for n, part in enumerate(parts):
            for step in STEPS:
                steps[f"{step} {n}"] = in_fresh_process(run_step, step, source, part, shard=(n, SHARDS))
        started = time.perf_counter()
        merge_catalogs(folder / "merged", parts)
        return Way(folder / "merged", steps, time.perf_counter() - started)
    with dask_cluster(PROCESSES) if name == "cluster" else nullcontext() as scheduler:
        workers = PROCESSES if name == "processes" else 0
        steps = {
            step: in_fresh_process(run_step, step, source, folder, workers=workers, scheduler=scheduler)
            for step in STEPS
        }
    return Way(folder, steps)


def run_step(
    step: str,
    source: Path,
    catalog: Path,
    *,
    workers: int = 0,
    scheduler: str | None = None,
    shard: tuple[int, int] = (0, 1),
) -> Step:
    """Convert or simulate clicks, and record time and memory."""
    from clicksim.catalog import find_source
    from clicksim.pipeline import Crew, PromptRun, convert, simulate_catalog
    from clicksim.pipeline.cluster import dask_executor

    noted, started = Step(), time.perf_counter()

    def note(done: int, total: int, refused: int = 0) -> None:  # noqa: ARG001
        if done in (-(-total // 10), total):
            noted.own += own_peak()
            noted.workers += workers_peak(on_cluster=scheduler is not None)

    with dask_executor(scheduler) if scheduler else nullcontext() as executor:
        crew = Crew(workers, executor, note)
        if step == "convert":
            convert(find_source("fdat"), source, catalog, shard=shard, crew=crew)
        else:
            simulate_catalog(catalog, [PromptRun(PROTOCOL)], crew=crew)
    noted.seconds = time.perf_counter() - started
    noted.own += own_peak()
    return noted


def in_fresh_process(work: Callable[..., Step], *arguments: Any, **named: Any) -> Step:
    """Run some work in a fresh process and return its result."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments, **named).result()


def own_peak() -> list[int]:
    """Peak resident bytes of this process (`VmHWM`); empty if the system does not report it."""
    return [read_status("VmHWM")] if Path("/proc/self/status").exists() else []


def workers_peak(*, on_cluster: bool) -> list[int]:
    """Peak resident bytes of the largest worker of this process or of the cluster; empty without workers."""
    if on_cluster:
        from distributed import Client

        current: Any = Client.current
        found = [peak for peaks in current().run(own_peak).values() for peak in peaks]
    else:
        children = [str(child.pid) for child in multiprocessing.active_children()]
        found = [read_status("VmHWM", pid) for pid in children if Path("/proc", pid, "status").exists()]
    return [max(found)] if found else []


@contextmanager
def dask_cluster(workers: int) -> Iterator[str]:
    """The address of a cluster on this machine, each worker a process with one thread, without Dask's profiler."""
    import dask
    from distributed import LocalCluster

    make: Any = LocalCluster
    unprofiled = dask.config.set({"distributed.worker.profile.enabled": False})
    with unprofiled, make(workers, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        yield cluster.scheduler_address


def find_differences(catalogs: Mapping[str, Path]) -> list[str]:
    """Where the catalogs differ from the first: in the digest, or in the bytes of a Parquet file."""
    found = {name: read_tables(catalog) for name, catalog in catalogs.items()}
    digests = {name: open_catalog(catalog).digest() for name, catalog in catalogs.items()}
    first = next(iter(catalogs))
    differing = []
    for name, files in found.items():
        differing += [f"{name}: digest"] if digests[name] != digests[first] else []
        names = sorted(files.keys() | found[first].keys())
        differing += [f"{name}: {file}" for file in names if files.get(file) != found[first].get(file)]
    return differing


def read_tables(catalog: Path) -> dict[str, bytes]:
    """The bytes of every Parquet file, by its name below the catalog."""
    return {file.relative_to(catalog).as_posix(): file.read_bytes() for file in sorted(catalog.rglob("*.parquet"))}


def growth(ways: Mapping[str, Way]) -> list[float]:
    """Peak memory after all patients divided by that after a tenth, for every step and its workers."""
    noted = [peaks for way in ways.values() for step in way.steps.values() for peaks in (step.own, step.workers)]
    return [peaks[1] / peaks[0] for peaks in noted if peaks]


def page(ways: Mapping[str, Way], differing: Sequence[str], cases: int) -> str:
    """The page."""
    catalog = next(iter(ways.values())).catalog
    opened, files = open_catalog(catalog), read_tables(catalog)
    tables = {name: getattr(opened, name) for name in ("cases", "lesions", "prompts", "rejected")}
    counts = ", ".join(f"{len(table)} rows of {name}" for name, table in tables.items())
    megabytes = sum(table.nbytes for table in tables.values()) / 1e6
    verdict = "; ".join(differing) or "there is no difference"
    intro = f"""# Many cases

Written by `make scale`. `convert` and `clicks` ({PROTOCOL}) process {cases} phantoms in {len(ways)} ways. The phantoms
have grids of {show_shape(SHAPE)} voxels and the layout of fdat. Machine: {platform.machine()}, {os.cpu_count()} cores,
Python {platform.python_version()}.

The catalog has {counts}: {megabytes:.1f} MB in memory, {sum(map(len, files.values())) / 1e6:.1f} MB
on disk.

**Byte comparison** of the {len(files)} Parquet files of each way with those of the first way, and of the digests:
{verdict}. Digest: `{opened.digest()}`.
"""
    sections = [
        Section("Throughput", THROUGHPUT, ("way", *STEPS, "merge"), [_rates(n, w, cases) for n, w in ways.items()]),
        Section("Peak memory", MEMORY.format(tenth=round(cases / 10), cases=cases), MEMORY_HEADER, _memory_rows(ways)),
    ]
    return "\n".join([intro, *(section.markdown() for section in sections)])


def _rates(name: str, way: Way, cases: int) -> list[str]:
    """Cases per second of each step; the times of the shards are added."""
    seconds = [sum(step.seconds for n, step in way.steps.items() if n.startswith(kind)) for kind in STEPS]
    merge = f"{way.merge_s:.1f} s" if way.merge_s else "-"
    return [WAYS[name], *(f"{cases / spent:.0f} cases/s" for spent in seconds), merge]


def _memory_rows(ways: Mapping[str, Way]) -> list[list[str]]:
    rows = []
    for name, way in ways.items():
        for step, noted in way.steps.items():
            for who, peaks in (("the process", noted.own), ("its largest worker", noted.workers)):
                if peaks:
                    shown = [f"{peak / 2**20:.1f} MiB" for peak in peaks]
                    ratio = peaks[1] / peaks[0]
                    end = shown[2] if len(shown) == 3 else "-"
                    met = "yes" if ratio <= BAR else "no"
                    rows.append([WAYS[name], step, who, *shown[:2], f"{ratio:.3f}", f"{BAR}", met, end])
    return rows


if __name__ == "__main__":
    main()
