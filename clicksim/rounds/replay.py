"""Recorded prompts: read from a run or from files, replayed against another model, and compared between people.

Prompts that correct the errors of one model say little about another. The difference between the scores of a replay
and those of the model's own rounds is the off-policy gap.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clicksim.catalog.schema import table_schema
from clicksim.errors import PromptFormatError
from clicksim.lesions import Components, find_lesions
from clicksim.prompts.kinds import Prompt
from clicksim.prompts.table import METADATA_KEY, prompt_of, prompt_rows
from clicksim.rounds.prompters import Recording
from clicksim.rounds.round_records import RoundsCase, Row

if TYPE_CHECKING:
    import pyarrow as pa

Recordings = dict[str, list[Recording]]
Strokes = dict[tuple[int, int], list[Mapping[str, Any]]]
"""The voxels of each prompt, by round and number."""
Floats = NDArray[np.float64]


def read_recordings(paths: Sequence[str | Path]) -> Recordings:
    """Read recorded prompts by case, one recording for each annotator.

    Args:
        paths: Parquet files of prompt rows, or folders with `prompts.parquet` and, if the number of rounds of each
            case is known, `rounds.parquet`.

    Raises:
        PromptFormatError: A file cannot be read or lacks a column, or two files have the same case by the same
            annotator.
    """
    found: Recordings = {}
    for path in map(Path, paths):
        folder = path.is_dir()
        prompts = _read(path / "prompts.parquet" if folder else path)
        rounds = read_rounds(path)
        made = make_recordings(prompts, [] if rounds is None else rounds.to_pylist(), where=str(path))
        add_recordings(found, made, where=str(path))
    return found


def add_recordings(found: Recordings, more: Recordings, *, where: str) -> None:
    """Add recordings to those found before.

    Raises:
        PromptFormatError: Both have the same case by the same annotator.
    """
    for case_id, recordings in more.items():
        known = found.setdefault(case_id, [])
        twice = {recording.annotator for recording in known} & {recording.annotator for recording in recordings}
        if twice:
            raise PromptFormatError(f"case {case_id} is recorded twice by {', '.join(sorted(twice))} ({where})")
        known += recordings


def read_rounds(path: Path) -> "pa.Table | None":
    """Read the rounds of a result folder, or of the file `rounds.parquet`; None for any other path.

    Raises:
        PromptFormatError: The file cannot be read, or lacks a column.
    """
    file = path / "rounds.parquet" if path.is_dir() else path
    if file.name != "rounds.parquet" or not file.is_file():
        return None
    table = _read(file)
    missing = [name for name in table_schema("rounds").names if name not in table.column_names]
    if missing:
        raise PromptFormatError(f"a table of rounds needs the columns {', '.join(missing[:10])} ({file})")
    return table


def make_recordings(prompts: "pa.Table", rounds: Sequence[Row] = (), *, where: str = "") -> Recordings:
    """Make recordings of prompt rows.

    Args:
        prompts: Columns as in `clicksim.prompts.table`; `annotator`, `lesion` and `effort_s` may be missing. The
            seconds of a stroke are in any or all of its rows.
        rounds: Rows of the run that made the prompts: they give the number of rounds of each case. Without them,
            the last round with a prompt is the last round.
        where: A file to name in errors.

    Raises:
        PromptFormatError: A column is missing; a round, polarity, kind or voxel is invalid; with a column `source`,
            cases of two sources have the same name.
    """
    about = json.loads((prompts.schema.metadata or {}).get(METADATA_KEY, b"{}"))
    lengths: dict[tuple[str, str], int] = {}
    for row in rounds:
        key = (row["case_id"], row["annotator"])
        lengths[key] = max(lengths.get(key, 0), row["round"] + 1)
    strokes: dict[tuple[str, str], Strokes] = {key: {} for key in lengths}
    sources: dict[str, str | None] = {}
    for voxel in prompt_rows(prompts, where=where):
        case_id, source = voxel["case"], voxel.get("source")
        if sources.setdefault(case_id, source) != source:
            raise PromptFormatError(
                f"cases of several sources are called {case_id}; replay one source at a time ({where})"
            )
        person = strokes.setdefault((case_id, voxel.get("annotator") or "file"), {})
        person.setdefault((voxel["round"], voxel["stroke"]), []).append(voxel)
    found: Recordings = {}
    for key, parts in sorted(strokes.items()):
        found.setdefault(key[0], []).append(_recording(key[1], parts, lengths.get(key, 0), about))
    return found


def measure_agreement(case: RoundsCase, first: Recording, second: Recording) -> Row:
    """Measure how well two people agree on one case.

    Returns:
        `distance_mm`: the mean, over all prompts of both, of the distance to the nearest prompt of the other, voxel
        to voxel. `same_polarity`: the share of prompts whose nearest one has the same polarity. `same_lesions`: of
        the lesions that either chose with a foreground prompt, the share that both chose. None if there is nothing to
        compare. `first_lesions` and `second_lesions`: how many each chose.
    """
    sides = [[prompt for step in person.steps for prompt in step] for person in (first, second)]
    components = find_lesions(case.truth)
    lesions = [_lesions_under(components, side) for side in sides]
    either = lesions[0] | lesions[1]
    row: Row = {
        "case_id": case.scan.case_id,
        "first": first.annotator,
        "second": second.annotator,
        "distance_mm": None,
        "same_polarity": None,
        "same_lesions": len(lesions[0] & lesions[1]) / len(either) if either else None,
        "first_lesions": len(lesions[0]),
        "second_lesions": len(lesions[1]),
    }
    if sides[0] and sides[1]:
        nearest = _nearest(case, sides[0], sides[1]) + _nearest(case, sides[1], sides[0])
        row["distance_mm"] = float(np.mean([distance for distance, _ in nearest]))
        row["same_polarity"] = float(np.mean([same for _, same in nearest]))
    return row


def agreements(case: RoundsCase, recordings: Sequence[Recording]) -> list[Row]:
    """One row for each pair of annotators of a case."""
    return [measure_agreement(case, one, two) for one, two in combinations(recordings, 2)]


def effort_row(case_id: str, recording: Recording) -> Row:
    """The effort of a recording: rounds, prompts and seconds."""
    return {
        "case_id": case_id,
        "annotator": recording.annotator,
        "rounds": len(recording.steps),
        "prompts": sum(map(len, recording.steps)),
        "effort_s": recording.effort_s,
    }


def _recording(annotator: str, parts: Strokes, length: int, about: Mapping[str, Any]) -> Recording:
    """The recording of one person for one case, from its strokes by round and number."""
    count = max([length, *(number + 1 for number, _ in parts)], default=1)
    steps: list[list[Prompt]] = [[] for _ in range(max(count, 1))]
    seconds = []
    for (number, _), rows in sorted(parts.items()):
        steps[number].append(prompt_of(sorted(rows, key=lambda row: row.get("order") or 0)))
        told = [row["effort_s"] for row in rows if row.get("effort_s") is not None]
        seconds += [max(told)] if told else []
    return Recording(
        tuple(map(tuple, steps)),
        annotator,
        float(sum(seconds)) if seconds else None,
        about.get("protocol", ""),
        about.get("seed"),
        about.get("settings", {}),
    )


def _nearest(case: RoundsCase, own: Sequence[Prompt], other: Sequence[Prompt]) -> list[tuple[float, bool]]:
    """For each prompt the distance to the nearest prompt of the other person, and whether it has the same polarity."""
    from scipy.spatial import cKDTree

    owner = np.repeat(np.arange(len(other)), [len(prompt.voxels) for prompt in other])
    tree = cKDTree(np.concatenate([_mm(case, prompt) for prompt in other]))
    found = []
    for prompt in own:
        distances, places = tree.query(_mm(case, prompt))
        best = int(np.argmin(distances))
        found.append((float(distances[best]), other[owner[places[best]]].foreground == prompt.foreground))
    return found


def _mm(case: RoundsCase, prompt: Prompt) -> Floats:
    return np.asarray(prompt.voxels, np.float64) * np.asarray(case.scan.grid.spacing or (1.0, 1.0, 1.0))


def _lesions_under(lesions: Components, prompts: Sequence[Prompt]) -> set[int]:
    """The ids of the lesions that foreground prompts touch."""
    voxels = [voxel for prompt in prompts if prompt.foreground for voxel in prompt.voxels]
    return {lesion.id for lesion in lesions if any(lesion.holds(voxel) for voxel in voxels)}


def _read(file: Path) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(file, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise PromptFormatError(f"cannot read recorded prompts: {error} ({file})") from error
