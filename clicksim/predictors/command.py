"""`cmd:SHELL`: a command that reads and writes the folder of a Grand Challenge algorithm.

    {input}/images/ct/<uuid>.mha             {output}/images/tumor-lesion-segmentation/<uuid>.mha
    {input}/images/pet/<uuid>.mha
    {input}/lesion-clicks.json

Source: the interface of the autoPET IV and V algorithms. The output has the uuid of the CT.
"""

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from clicksim.errors import ClicksimError, ImageError, SettingError
from clicksim.files import LESION_CLICKS, storing
from clicksim.geometry import Grid
from clicksim.interruption import holding_signals
from clicksim.predictors.interface import Predictor, RoundFailure, Scan, placed
from clicksim.predictors.spec import TIME_LIMIT_S, PredictorKind, PredictorSpec
from clicksim.prompts import Prompts
from clicksim.prompts.prompt_files import read_prompts, write_prompts
from clicksim.volumes import Volume, read_image, write_image

RESULT = Path("images") / "tumor-lesion-segmentation"
GRACE_S = 1.0
"""How long a command has to end after SIGTERM, before SIGKILL. A worker itself has three seconds."""


class CommandPredictor:
    """A shell command that runs once for each round, and sees CT, PET, the prompts so far, and nothing else.

    Images are written once for each case, read-only, and linked into a new input folder for each round. An interrupted
    run ends the command with all processes that it started, and deletes the images.
    """

    limits_itself = True

    def __init__(self, command: str, time_limit_s: float = TIME_LIMIT_S) -> None:
        """Check a command.

        Args:
            command: The command, with `{input}` and `{output}` for the two folders; both are quoted for the shell.
            time_limit_s: Limit for one round. Then the command is ended with all processes that it started.

        Raises:
            SettingError: `{input}` or `{output}` is missing.
        """
        if "{input}" not in command or "{output}" not in command:
            raise SettingError(
                f"a command needs {{input}} and {{output}} in place of the folders that it reads and writes, got "
                f"{command!r}"
            )
        self.command, self.time_limit_s = command, time_limit_s
        self._home: tempfile.TemporaryDirectory[str] | None = None
        self._case: tuple[str, Grid] | None = None

    def __call__(self, case: Scan, prompts: Prompts) -> Volume:
        """Run the command for one round."""
        images = self._images(case)
        with _temporary_folder(images.parent) as folder:
            source, target = folder / "input", folder / "output"
            with storing(folder):
                source.mkdir()
                target.mkdir()
                for file in sorted(images.glob("*/*.mha")):
                    place = source / "images" / file.relative_to(images)
                    place.parent.mkdir(parents=True)
                    _link(file, place)
                write_prompts(source / LESION_CLICKS, prompts, "grand-challenge")
            self._run(source, target)
            try:
                return _read_result(target, _uuid(case.case_id))
            except ImageError as error:
                # the name of the folder is random, and the row must not be
                raise RoundFailure("BadLabel", str(error).replace(str(target), "{output}")) from error

    def finish(self) -> None:
        """Delete the images of the case."""
        home, self._home, self._case = self._home, None, None
        if home is not None:
            with storing(Path(home.name)):
                home.cleanup()

    def _images(self, case: Scan) -> Path:
        """Return the folder with the images of a case; a new case is written first."""
        if self._home is None or self._case is None or self._case != (case.case_id, case.grid):
            self.finish()
            with storing(Path(tempfile.gettempdir())):
                with holding_signals():
                    self._home = tempfile.TemporaryDirectory(prefix="clicksim-rounds-")
                for name, array in (("ct", case.ct), ("pet", case.pet)):
                    if array is not None:
                        file = Path(self._home.name) / "images" / name / f"{_uuid(case.case_id)}.mha"
                        file.parent.mkdir(parents=True)
                        write_image(file, np.asarray(array), placed(case.grid))
                        file.chmod(0o444)
            self._case = (case.case_id, case.grid)
        return Path(self._home.name) / "images"

    def _run(self, source: Path, target: Path) -> None:
        """Run the command until it ends or the time limit is reached."""
        folders = {"{input}": source, "{output}": target}
        line = self.command
        for place, folder in folders.items():
            line = line.replace(place, shlex.quote(str(folder)))
        with tempfile.TemporaryFile() as heard:
            code = self._wait(line, heard)
            if code:
                last = _last_line(heard)
                for place, folder in folders.items():
                    last = last.replace(str(folder), place)
                raise RoundFailure("PredictorError", f"the command ended with {code}: {last or 'it printed nothing'}")

    def _wait(self, line: str, heard: IO[bytes]) -> int:
        """Run a shell command in a process group of its own; return its exit code."""
        process: subprocess.Popen[bytes] | None = None
        try:
            with holding_signals():
                process = subprocess.Popen(
                    line, shell=True, stdin=subprocess.DEVNULL, stdout=heard, stderr=heard, start_new_session=True
                )
            return process.wait(self.time_limit_s)
        except subprocess.TimeoutExpired as error:
            _end_group(process)
            raise RoundFailure("TimeLimit", f"no answer within {self.time_limit_s:g} s") from error
        except BaseException:
            _end_group(process)
            raise


@contextmanager
def _temporary_folder(above: Path) -> Iterator[Path]:
    """Yield a folder for one round. An error of the disk is not a failure of the predictor.

    Raises:
        StorageError: The folder cannot be made or deleted.
    """
    with storing(above):
        folder = tempfile.TemporaryDirectory(prefix="clicksim-round-", dir=above)
    try:
        yield Path(folder.name)
    finally:
        with storing(above):
            folder.cleanup()


def predict_folder(source: str | Path, target: str | Path, predictor: Predictor) -> Path:
    """Act as the command: read the input folder of a round, ask a predictor, and write the output folder.

    Args:
        source: The folder with `images/ct`, `images/pet` (either may be missing) and `lesion-clicks.json`.
        target: The folder in which `images/tumor-lesion-segmentation/<uuid>.mha` is written.
        predictor: See `clicksim.predictors.Predictor`.

    Returns:
        The file that was written.

    Raises:
        ClicksimError: There is no image, there are several of one kind, or they are on different grids; the prompts
            cannot be read.
    """
    folders = {name: Path(source) / "images" / name for name in ("ct", "pet")}
    images = {name: read_only_image(folder) for name, folder in folders.items() if any(folder.glob("*.mha"))}
    if not images:
        raise ClicksimError(f"no .mha image in {source}/images/ct or {source}/images/pet")
    first = next(iter(images.values()))
    for name, image in images.items():
        first.grid.check_same(image.grid, (next(iter(images)), name), where=str(source))
    stem = Path(first.path).stem
    arrays = {name: image.array for name, image in images.items()}
    prompts = read_prompts(Path(source) / LESION_CLICKS, first.grid, case_id=stem)
    scan = Scan(stem, first.grid, arrays.get("ct"), arrays.get("pet"))
    mask = np.asarray(predictor(scan, prompts))
    file = Path(target) / RESULT / f"{stem}.mha"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_image(file, mask, first.grid)
    return file


def read_only_image(folder: Path) -> Volume:
    """Read the only `.mha` image of a folder.

    Raises:
        ImageError: There is none, there are several, or it cannot be read.
    """
    files = sorted(folder.glob("*.mha"))
    if len(files) != 1:
        raise ImageError(f"{folder} has {len(files)} .mha images; it must have exactly one")
    return read_image(files[0])


def _read_result(target: Path, stem: str) -> Volume:
    folder = target / RESULT
    named = folder / f"{stem}.mha"
    files = [named] if named.is_file() else sorted(folder.glob("*.mha"))
    if len(files) != 1:
        raise RoundFailure(
            "NoPrediction",
            f"{len(files)} images in {{output}}/{RESULT.as_posix()}; write exactly one, <uuid of the CT>.mha",
        )
    return read_image(files[0])


def _uuid(case_id: str) -> str:
    """Return a name for a case that is always the same and reveals nothing about it."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"clicksim:{case_id}"))


def _link(file: Path, place: Path) -> None:
    try:
        os.link(file, place)
    except OSError:  # a file system without links
        shutil.copyfile(file, place)


def _end_group(process: "subprocess.Popen[Any] | None") -> None:
    """End a command with all processes that it started: a container engine passes SIGTERM on to its container."""
    if process is None:
        return
    if _signal_group(process, signal.SIGTERM):
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
        _signal_group(process, signal.SIGKILL)
    process.wait()


def _signal_group(process: "subprocess.Popen[Any]", number: int) -> bool:
    """Send a signal to the process group of a command; return whether it existed."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _last_line(heard: IO[bytes]) -> str:
    """Return the last line that is not empty, within the last 4 KiB."""
    size = heard.seek(0, os.SEEK_END)
    heard.seek(max(0, size - 4096))
    lines = [line.strip() for line in heard.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def _open(spec: PredictorSpec, time_limit_s: float) -> CommandPredictor:
    return CommandPredictor(spec.argument, time_limit_s)


def _check(spec: PredictorSpec) -> None:
    CommandPredictor(spec.argument)


KIND = PredictorKind(
    usage="cmd:SHELL",
    summary="a shell command with {input} and {output}, run for each round on the folder of a Grand Challenge case",
    open=_open,
    title=lambda spec: f"command {spec.argument.split()[0]}",
    check=_check,
)
