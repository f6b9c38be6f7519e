"""The folder of a Grand Challenge algorithm: written for a command, and read by one.

    {input}/images/ct/<uuid>.mha             {output}/images/tumor-lesion-segmentation/<uuid>.mha
    {input}/images/pet/<uuid>.mha
    {input}/lesion-clicks.json

Source: the interface of the autoPET IV and V algorithms. The uuid of the output is that of the CT.
"""

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from clicksim.errors import ClicksimError, ImageError, SettingError
from clicksim.files import LESION_CLICKS
from clicksim.geometry import Grid
from clicksim.predictors.interface import RoundFailure, Scan, placed
from clicksim.prompts import Prompts
from clicksim.prompts.prompt_files import read_prompts, write_prompts
from clicksim.volumes import Volume, read_image, write_image

if TYPE_CHECKING:
    from clicksim.predictors.interface import Predictor

RESULT = Path("images") / "tumor-lesion-segmentation"


class CommandPredictor:
    """A shell command, started anew each round, that sees CT, PET and the prompts so far and nothing else.

    Images are written once for each case, read-only, and linked into a fresh input folder each round.
    """

    limits_itself = True

    def __init__(self, command: str, time_limit_s: float = 600.0) -> None:
        """Take a command.

        Args:
            command: With `{input}` and `{output}` where the folders belong; both are quoted for the shell.
            time_limit_s: For one round. The command and all that it started are ended then.

        Raises:
            SettingError: A command without the two places.
        """
        if "{input}" not in command or "{output}" not in command:
            raise SettingError(f"a command needs {{input}} and {{output}} where the folders belong, got {command!r}")
        self.command, self.time_limit_s = command, time_limit_s
        self._home: tempfile.TemporaryDirectory[str] | None = None
        self._case: tuple[str, Grid] | None = None

    def __call__(self, case: Scan, prompts: Prompts) -> Volume:
        """Run the command for one round."""
        images = self._images(case)
        with tempfile.TemporaryDirectory(prefix="clicksim-round-", dir=images.parent) as name:
            source, target = Path(name) / "input", Path(name) / "output"
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
                # the folder's name is drawn anew each time, and the row is to be the same
                raise RoundFailure("BadLabel", str(error).replace(str(target), "{output}")) from error

    def finish(self) -> None:
        """Delete the images of the case."""
        home, self._home, self._case = self._home, None, None
        if home is not None:
            home.cleanup()

    def _images(self, case: Scan) -> Path:
        """The folder with the images of a case, written where it is new."""
        if self._home is None or self._case is None or self._case != (case.case_id, case.grid):
            self.finish()
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
        """The command, to its end or to the time limit."""
        folders = {"{input}": source, "{output}": target}
        line = self.command
        for place, folder in folders.items():
            line = line.replace(place, shlex.quote(str(folder)))
        with tempfile.TemporaryFile() as heard:
            # a session of its own, so that what the command started can be ended with it
            process = subprocess.Popen(
                line, shell=True, stdin=subprocess.DEVNULL, stdout=heard, stderr=heard, start_new_session=True
            )
            try:
                code = process.wait(self.time_limit_s)
            except subprocess.TimeoutExpired as error:
                raise RoundFailure("TimeLimit", f"no answer within {self.time_limit_s:g} s") from error
            finally:
                _end(process)
            if code:
                last = _last_line(heard)
                for place, folder in folders.items():
                    last = last.replace(str(folder), place)
                raise RoundFailure("PredictorError", f"the command ended with {code}: {last or 'it said nothing'}")


def predict_folder(source: str | Path, target: str | Path, predictor: "Predictor") -> Path:
    """The other side: read the input folder of a round, ask a predictor, write the output folder.

    Args:
        source: With `images/ct`, `images/pet` (either may be missing) and `lesion-clicks.json`.
        target: Where `images/tumor-lesion-segmentation/<uuid>.mha` is written.
        predictor: A callable as `clicksim.rounds.play` takes it.

    Returns:
        The file that was written.

    Raises:
        ClicksimError: No image, or several of one kind; images on two grids; prompts that cannot be read.
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
    """The one `.mha` image of a folder.

    Raises:
        ImageError: None or several; one that cannot be read.
    """
    files = sorted(folder.glob("*.mha"))
    if len(files) != 1:
        raise ImageError(f"{folder} holds {len(files)} .mha images; one is wanted")
    return read_image(files[0])


def _read_result(target: Path, stem: str) -> Volume:
    folder = target / RESULT
    named = folder / f"{stem}.mha"
    files = [named] if named.is_file() else sorted(folder.glob("*.mha"))
    if len(files) != 1:
        raise RoundFailure(
            "NoPrediction", f"{len(files)} images in {{output}}/{RESULT.as_posix()}; one <uuid of the CT>.mha is wanted"
        )
    return read_image(files[0])


def _uuid(case_id: str) -> str:
    """The same name for a case every time; it tells nothing about the case."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"clicksim:{case_id}"))


def _link(file: Path, place: Path) -> None:
    try:
        os.link(file, place)
    except OSError:  # a file system without links
        shutil.copyfile(file, place)


def _end(process: "subprocess.Popen[Any]") -> None:
    """End a command that still runs, with all that it started."""
    if process.poll() is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _last_line(heard: IO[bytes]) -> str:
    """The last line that is not empty, of the last 4 KiB."""
    size = heard.seek(0, os.SEEK_END)
    heard.seek(max(0, size - 4096))
    lines = [line.strip() for line in heard.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
