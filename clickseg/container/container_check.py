"""Play six rounds as Grand Challenge does: six fresh processes over folders, with and without the cache folder.

Each process gets an environment without the user's variables. If the machine allows it, the process has no network,
and its file system is read-only except for the output and the cache. Without a container engine nothing more can be
checked: no image is run, and the report says so.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from clicksim.errors import ClicksimError
from clicksim.predictors import CommandPredictor
from clicksim.predictors.interface import RoundFailure, Scan
from clicksim.prompts import Prompts
from clicksim.rounds import RoundsCase, play
from clicksim.rounds.round_records import Row
from clicksim.volumes import Volume

ENGINES = ("docker", "podman")
SEALED = 'mount --bind "$1" "$1" && mount --bind "$2" "$2" && mount -o remount,bind,ro / && shift 2 && exec "$@"'
PATIENCE_S = 10
THREADS = "OMP_NUM_THREADS"  # the only variable that is passed on


@dataclass
class Played:
    """Rounds with or without the cache.

    Attributes:
        rows: As in the table `rounds`.
        seconds: By round, the duration of its process, if it wrote a mask.
        peaks_mib: By round, the peak memory.
        repeats: Whether a second run of the first round gave the same mask; None without a mask.
    """

    rows: list[Row] = field(default_factory=list)
    seconds: dict[int, float] = field(default_factory=dict)
    peaks_mib: dict[int, float] = field(default_factory=dict)
    repeats: bool | None = None


@dataclass(frozen=True)
class CheckReport:
    """The result of the check.

    Attributes:
        surroundings: How the processes were isolated from the machine, in sentences.
        cached, plain: The rounds with and without the cache.
    """

    surroundings: tuple[str, ...]
    cached: Played
    plain: Played

    @property
    def faults(self) -> list[str]:
        """The problems found, as sentences."""
        found = []
        for name, played in (("with", self.cached), ("without", self.plain)):
            found += [
                f"round {row['round']} {name} the cache: {row['failure']}: {row['detail']}"
                for row in played.rows
                if row["failure"]
            ]
        if not self.cached.repeats:
            found.append("a second run of the first round gave another mask, or none")
        return found

    def text(self) -> str:
        """Return the report as text."""
        lines = [*self.surroundings, "", "round  prompts  Dice with / without cache  seconds          peak MiB"]
        for number, (a, b) in enumerate(zip(self.cached.rows, self.plain.rows, strict=True)):
            lines.append(
                f"{number:5}  {a['n_prompts']:7}  {_cell(a['dice'], 3)} / {_cell(b['dice'], 3)}{'':15}"
                f"{_cell(self.cached.seconds.get(number))} / {_cell(self.plain.seconds.get(number))}  "
                f"{_cell(self.cached.peaks_mib.get(number))} / {_cell(self.plain.peaks_mib.get(number))}"
            )
        lines += ["", *(self.faults or ["every round gave a mask on the PET's grid; a second run gave the same one"])]
        return "\n".join(lines)


def check_container(
    model: Path, case: RoundsCase, *, rounds: int = 6, image: str = "", arguments: str = ""
) -> CheckReport:
    """Play a case with the cache and without it.

    Args:
        model: A checkpoint.
        case: A case with its truth.
        rounds: Number of rounds, as in autoPET V: the first has no prompts, each later one has a correction.
        image: Container image to run; by default the entry point runs in this Python.
        arguments: More options for `clickseg container run`, such as `--device cpu`.

    Raises:
        ClicksimError: An image is given, but no container engine runs here.
    """
    engine = find_engine()
    if image and engine is None:
        raise ClicksimError(f"image {image!r} cannot be run: no container engine ({', '.join(ENGINES)}) runs here")
    with tempfile.TemporaryDirectory(prefix="clickseg-check-") as name:
        home = Path(name)
        command = Command(model.resolve(), home, image, engine or "", arguments, can_seal())
        found = [_play(command, case, rounds, cached=cached) for cached in (True, False)]
    return CheckReport(tuple(_surroundings(command)), *found)


@dataclass(frozen=True)
class Command:
    """How to start a round."""

    model: Path
    home: Path
    image: str
    engine: str
    arguments: str
    sealed: bool

    def text(self, *, cached: bool) -> str:
        """Return the shell command, with `{input}` and `{output}`."""
        cache = self.home / "cache"
        kept = f"--cache {shlex.quote(str(cache))}" if cached else "--no-cache"
        if self.image:
            mount = f"-v {shlex.quote(str(cache))}:/cache" if cached else ""
            kept = "--cache /cache" if cached else "--no-cache"
            return (
                f"{self.engine} run --rm --network none --read-only --user {os.getuid()} -v {{input}}:/input:ro "
                f"-v {{output}}:/output {mount} {shlex.quote(self.image)} {kept} "
                f"--facts /output/facts.json {self.arguments}"
            )
        root = Path(__file__).resolve().parents[2]
        threads = f" {THREADS}={shlex.quote(os.environ[THREADS])}" if THREADS in os.environ else ""
        bare = f"env -i PATH=/usr/bin:/bin PYTHONPATH={shlex.quote(str(root))} PYTHONDONTWRITEBYTECODE=1{threads}"
        run = (
            f"{bare} {shlex.quote(sys.executable)} -m clickseg container run --input {{input}} --output {{output}} "
            f"--model {shlex.quote(str(self.model))} {kept} --facts {{output}}/facts.json {self.arguments}"
        )
        if not self.sealed:
            return run
        return f"unshare -rnm sh -c {shlex.quote(SEALED)} sh {{output}} {shlex.quote(str(cache))} {run}"


class _Timed:
    """A command predictor that records the time and memory of its process.

    The output folder is deleted after each round, so the command copies the facts out of it.
    """

    limits_itself = True

    def __init__(self, command: str, facts: Path, *, twice: bool) -> None:
        self.inner = CommandPredictor(f"{command} && cp {{output}}/facts.json {shlex.quote(str(facts))}")
        self.facts, self.played, self.twice = facts, Played(), twice

    def __call__(self, case: Scan, prompts: Prompts) -> Volume:
        started = time.perf_counter()
        answer = self.inner(case, prompts)
        self.played.seconds[case.round] = time.perf_counter() - started
        self.played.peaks_mib[case.round] = json.loads(self.facts.read_text(encoding="utf-8"))["peak_mib"]
        if case.round == 0 and self.twice:
            try:
                again = self.inner(case, prompts)
                self.played.repeats = bool(np.array_equal(answer.array, again.array))
            except RoundFailure:
                self.played.repeats = False
        return answer

    def finish(self) -> None:
        self.inner.finish()


def _play(command: Command, case: RoundsCase, rounds: int, *, cached: bool) -> Played:
    """The rounds of a case, in fresh processes."""
    cache = command.home / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir()
    cache.chmod(0o777)
    predictor = _Timed(command.text(cached=cached), command.home / "facts.json", twice=cached)
    game = play(case, predictor, protocol="autopet-v@2", n_rounds=rounds)
    predictor.played.rows = game.rows
    return predictor.played


def phantom_case() -> RoundsCase:
    """A small synthetic case with lesions."""
    from clicksim.phantom import make_phantom

    made = make_phantom(1, shape=(48, 40, 72), spacing=(4.0, 4.0, 4.0), n_lesions=4)
    return RoundsCase(Scan(made.case_id, made.grid, made.ct, made.pet), made.label)


def find_engine() -> str | None:
    """A container engine that answers, or None."""
    for name in ENGINES:
        if shutil.which(name):
            try:
                asked = subprocess.run([name, "info"], capture_output=True, timeout=PATIENCE_S, check=False)
            except (OSError, subprocess.TimeoutExpired):
                continue
            if asked.returncode == 0:
                return name
    return None


def can_seal() -> bool:
    """Check whether a normal user can run a process without network on a read-only file system."""
    if not shutil.which("unshare"):
        return False
    with tempfile.TemporaryDirectory(prefix="clickseg-seal-") as name:
        inside, outside = Path(name) / "inside", Path(name) / "outside"
        inside.mkdir()
        outside.mkdir()
        probe = 'touch "$0/a" && ! touch "$1/b" 2>/dev/null'
        command = ["unshare", "-rnm", "sh", "-c", SEALED, "sh", str(inside), str(inside), "sh", "-c", probe]
        try:
            tried = subprocess.run(
                [*command, str(inside), str(outside)], capture_output=True, timeout=PATIENCE_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        return tried.returncode == 0


def _surroundings(command: Command) -> list[str]:
    if command.image:
        return [f"image {command.image} under {command.engine}, without network, on a read-only root"]
    lines = ["no image was built: the entry point ran in fresh processes of this Python, without the user's variables"]
    if command.sealed:
        lines.append("they had no network, and could write only to the output and the cache")
    else:
        lines.append("they were not isolated: this machine does not allow it (unshare -rnm)")
    if not command.engine:
        lines.append(f"no container engine ({', '.join(ENGINES)}) runs here")
    return lines


def _cell(value: float | None, digits: int = 1) -> str:
    return "     -" if value is None else f"{value:6.{digits}f}"
