"""The entry point of a Grand Challenge algorithm: one case and its prompts in, one mask out, in a fresh process.

    /input/images/ct/<uuid>.mha              /output/images/tumor-lesion-segmentation/<uuid of the CT>.mha
    /input/images/pet/<uuid>.mha
    /input/lesion-clicks.json                voxels of the PET; missing or empty: no prompts

Source: the interface of the autoPET IV and V algorithms. The mask is on the PET's grid. Malformed input raises an error
with a clear message, and nothing is written.

The previous mask. Grand Challenge starts a new process for each round. An algorithm may keep files in a folder that is
wiped between cases. Each round saves its mask there, named by the number of prompts that it saw, with a key: a hash of
the images, the model and its options. A later round considers the masks whose prompts are a proper subset of its own,
and corrects the one with the most prompts. So a round that runs again gives the same bytes. If the folder is missing,
cannot be written or holds another case, the model works without a previous mask, as it was trained to do, and says so.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clickseg.predict import Options, Session, open_session
from clicksim.errors import ClicksimError
from clicksim.files import LESION_CLICKS, make_folder, replacing, write_text
from clicksim.geometry import Grid
from clicksim.predictors.command import RESULT, read_only_image
from clicksim.prompts import Prompts
from clicksim.prompts.prompt_files import read_prompts
from clicksim.volumes import Volume, write_image

Say = Callable[[str], None]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Round:
    """The input of one round.

    Attributes:
        name: Name of the result without its ending; the same as the CT's.
        ct, pet: Images on one grid.
        prompts: Prompts on that grid.
    """

    name: str
    ct: Volume
    pet: Volume
    prompts: Prompts

    @property
    def grid(self) -> Grid:
        """The grid of the PET."""
        return self.pet.grid


def run_round(
    source: Path,
    target: Path,
    model: Path,
    *,
    cache: Path | None,
    options: Options | None = None,
    say: Say = lambda _: None,
) -> Path:
    """Read a round, predict, write the mask.

    Args:
        source, target: The folders `/input` and `/output`.
        model: A checkpoint.
        cache: Folder that is kept between the rounds of a case, or None.
        options: Options of the prediction.
        say: Called with each message for the user.

    Returns:
        The written file.

    Raises:
        ClicksimError: There is no image or more than one, images differ in grid or contain NaN, prompts are unreadable
            or outside the volume, the checkpoint is invalid, or the output cannot be written.
    """
    asked = read_round(source, say)
    chosen = options or Options()
    session, _ = open_session(model, replace(chosen, keep_windows=False))
    session.set_case(asked.grid, asked.ct.array, asked.pet.array)
    memory = None if cache is None else PreviousMasks(cache, case_key(asked, model, chosen))
    previous = None
    if memory is None:
        say("no previous mask: no cache folder was given")
    elif len(asked.prompts):
        previous = memory.recall(asked.prompts, say)
    mask = session.prompt(asked.prompts, previous=_fitting(previous, session, say))
    file = target / RESULT / f"{asked.name}.mha"
    make_folder(file.parent)
    write_image(file, mask, asked.grid)
    if memory is not None and session.mask is not None:
        memory.keep(asked.prompts, session.mask, say)
    return file


def read_round(source: Path, say: Say = lambda _: None) -> Round:
    """Read the input of a round; see `run_round` for the errors."""
    ct, pet = (read_only_image(source / "images" / name) for name in ("ct", "pet"))
    pet.grid.check_same(ct.grid, ("PET", "CT"), where=str(source))
    return Round(Path(ct.path).stem, ct, pet, _prompts(source / LESION_CLICKS, pet.grid, say))


def case_key(asked: Round, model: Path, options: Options) -> str:
    """Return a hash of the images, the model and the options. A mask with another key does not belong to this case."""
    total = hashlib.blake2b(digest_size=16)
    for volume in (asked.ct, asked.pet):
        total.update(np.ascontiguousarray(volume.array.T).data)  # i varies fastest in memory, so this makes no copy
    total.update(repr((asked.grid.shape, np.round(np.asarray(asked.grid.affine), 3).tolist())).encode())
    total.update(repr((options.overlap, options.mirror)).encode())
    with model.open("rb") as file:
        total.update(hashlib.file_digest(file, "blake2b").digest())
    return total.hexdigest()


class PreviousMasks:
    """The masks of earlier rounds of a case, in a folder: `previous-<prompt voxels>.npz`."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key

    def recall(self, prompts: Prompts, say: Say) -> Bools | None:
        """Return the mask with the most prompts among those whose prompts are a proper subset of these."""
        if not self.folder.is_dir():
            say(f"no previous mask: there is no folder {self.folder}")
            return None
        now, count = _rows(prompts), _size(prompts)
        foreign = 0
        for file in sorted(self.folder.glob("previous-*.npz"), reverse=True):
            try:
                entry = _read_entry(file)
            except Exception as error:  # a damaged archive can raise many kinds of errors
                say(f"{file} cannot be read and is not used: {error}")
                continue
            if entry["key"] != self.key:
                foreign += 1
            elif entry["count"] < count and entry["rows"] <= now:
                mask: Bools = entry["mask"]
                return mask
        others = f"; {foreign} masks there belong to another case or model" if foreign else ""
        say(f"no previous mask: {self.folder} has none with fewer prompts{others}")
        return None

    def keep(self, prompts: Prompts, mask: Bools, say: Say) -> None:
        """Save a mask for later rounds; a failure is only reported."""
        rows = np.array(sorted(_rows(prompts)), dtype=np.int32).reshape(-1, 4)
        try:
            with replacing(self.folder / f"previous-{_size(prompts):06d}.npz") as temporary:
                np.savez_compressed(
                    temporary, key=self.key, count=_size(prompts), rows=rows, shape=mask.shape, bits=np.packbits(mask)
                )
        except OSError as error:
            say(f"the mask is not kept for the next round: {self.folder}: {error.strerror or error}")


def _prompts(file: Path, grid: Grid, say: Say) -> Prompts:
    """Read the prompts of a round; none if the file is missing or empty."""
    if not file.exists():
        say(f"no prompts: there is no {file}")
        return Prompts((), grid)
    try:
        text = file.read_bytes()
    except OSError as error:
        raise ClicksimError(f"cannot read the prompts: {error.strerror} ({file})") from error
    if text.strip() in (b"", b"{}"):
        say(f"no prompts: {file} is empty")
        return Prompts((), grid)
    return read_prompts(file, grid)


def _rows(prompts: Prompts) -> set[tuple[int, ...]]:
    """Return polarity and coordinates of each prompt voxel."""
    sides = ((1, prompts.foreground), (0, prompts.background))
    return {(side, *voxel) for side, voxels in sides for voxel in voxels.tolist()}


def _size(prompts: Prompts) -> int:
    """Count prompt voxels, including repeated ones."""
    return len(prompts.foreground) + len(prompts.background)


def _read_entry(file: Path) -> dict[str, Any]:
    # opened here: numpy leaves a damaged file open if it opened it itself
    with file.open("rb") as raw, np.load(raw, allow_pickle=False) as data:
        shape = tuple(int(n) for n in data["shape"])
        flat = np.unpackbits(data["bits"])
        if len(shape) != 3 or min(shape) < 1 or not 0 <= len(flat) - int(np.prod(shape)) < 8:
            raise ValueError(f"a mask of shape {shape} does not have {len(flat)} voxels")
        mask = flat[: int(np.prod(shape))].reshape(shape).astype(np.bool_)
        rows = {tuple(row) for row in data["rows"].tolist()}
        return {"key": str(data["key"]), "count": int(data["count"]), "rows": rows, "mask": mask}


def _fitting(previous: Bools | None, session: Session, say: Say) -> Bools | None:
    """Return the mask if it is on the model's grid, else None."""
    if previous is not None and previous.shape != session.shape:
        say(f"no previous mask: it has shape {previous.shape}, but the model works on {session.shape}")
        return None
    return previous


def measure_process() -> dict[str, float]:
    """Return the processor time in seconds and the peak memory of this process so far."""
    import resource
    import sys

    usage = resource.getrusage(resource.RUSAGE_SELF)
    peak = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss may be that of the parent process
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="ascii").splitlines() if ":" in line)
        peak = int(lines["VmHWM"].split()[0]) / 2**10
    return {"cpu_s": usage.ru_utime + usage.ru_stime, "peak_mib": peak}


def write_facts(file: Path, facts: dict[str, Any]) -> None:
    """Write facts as JSON; the file is complete or missing."""
    write_text(file, json.dumps(facts, indent=1) + "\n")
