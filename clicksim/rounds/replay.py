"""Recorded prompts: read from a run or from files, played against another model, and compared between people.

Prompts that were drawn from one model's errors say little about another: the difference between the scores of a
replay and those of the model's own rounds is the off-policy gap.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clicksim.errors import PromptFormatError
from clicksim.lesions import find_lesions
from clicksim.prompts import Box, Click, Scribble
from clicksim.prompts.records import Prompt
from clicksim.prompts.table import METADATA_KEY
from clicksim.rounds.prompters import Recording
from clicksim.rounds.records import Case, Row

if TYPE_CHECKING:
    import pyarrow as pa

NEEDED = ("case", "round", "polarity", "kind", "stroke", "i", "j", "k")
Recordings = dict[str, list[Recording]]
Floats = NDArray[np.float64]


def read_recordings(paths: Sequence[str | Path]) -> Recordings:
    """Recorded prompts by case, one recording for each annotator.

    Args:
        paths: Parquet files of prompt rows, or folders with `prompts.parquet` and, where the number of rounds of
            each case is known, `rounds.parquet`.

    Raises:
        PromptFormatError: A file that cannot be read, lacks a column, or brings an annotator's case a second time.
    """
    found: Recordings = {}
    for path in map(Path, paths):
        folder = path.is_dir()
        prompts = _read(path / "prompts.parquet" if folder else path)
        rounds = _read(path / "rounds.parquet").to_pylist() if folder and (path / "rounds.parquet").is_file() else []
        for case_id, recordings in make_recordings(prompts, rounds, where=str(path)).items():
            known = {recording.annotator for recording in found.setdefault(case_id, [])}
            twice = known & {recording.annotator for recording in recordings}
            if twice:
                raise PromptFormatError(f"case {case_id} is recorded twice by {', '.join(sorted(twice))} ({path})")
            found[case_id] += recordings
    return found


def make_recordings(prompts: "pa.Table", rounds: Sequence[Row] = (), *, where: str = "") -> Recordings:
    """Recordings from prompt rows.

    Args:
        prompts: Columns as in `clicksim.prompts.table`; `annotator`, `lesion` and `effort_s` may be missing. The
            seconds of a stroke stand in any or all of its rows.
        rounds: Rows of the run that made them, which say how many rounds each case had; else the last round with
            a prompt is the last.
        where: A file to name in errors.

    Raises:
        PromptFormatError: A missing column, or a round below 0.
    """
    missing = [name for name in NEEDED if name not in prompts.column_names]
    if missing:
        raise PromptFormatError(f"a table of prompts needs the columns {', '.join(missing)} ({where})")
    about = json.loads((prompts.schema.metadata or {}).get(METADATA_KEY, b"{}"))
    lengths: dict[tuple[str, str], int] = {}
    for row in rounds:
        key = (row["case_id"], row["annotator"])
        lengths[key] = max(lengths.get(key, 0), row["round"] + 1)
    strokes: dict[tuple[str, str], dict[tuple[int, int], list[Row]]] = {key: {} for key in lengths}
    for row in prompts.to_pylist():
        if row["round"] is None or row["round"] < 0:
            raise PromptFormatError(f"rounds count from 0, got {row['round']} in case {row['case']} ({where})")
        person = strokes.setdefault((row["case"], row.get("annotator") or "file"), {})
        person.setdefault((row["round"], row["stroke"]), []).append(row)
    found: Recordings = {}
    for key, parts in sorted(strokes.items()):
        found.setdefault(key[0], []).append(_recording(key[1], parts, lengths.get(key, 0), about))
    return found


def measure_agreement(case: Case, first: Recording, second: Recording) -> Row:
    """How far two people agree on one case.

    Returns:
        `distance_mm`: the mean, over all prompts of both, of the distance to the nearest prompt of the other, voxel
        to voxel. `same_polarity`: the share of prompts whose nearest one has the same polarity. `same_lesions`: of
        the lesions that either chose with a foreground prompt, the share that both did. None where there is nothing
        to compare. Beside these the prompts, rounds and seconds of each.
    """
    sides = [[prompt for step in person.steps for prompt in step] for person in (first, second)]
    lesions = [_lesions_under(case, side) for side in sides]
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


def agreements(case: Case, recordings: Sequence[Recording]) -> list[Row]:
    """One row for each pair of annotators of a case."""
    return [measure_agreement(case, one, two) for one, two in combinations(recordings, 2)]


def effort_row(case_id: str, recording: Recording) -> Row:
    """What a recording cost: rounds, prompts and seconds."""
    return {
        "case_id": case_id,
        "annotator": recording.annotator,
        "rounds": len(recording.steps),
        "prompts": sum(map(len, recording.steps)),
        "effort_s": recording.effort_s,
    }


def _recording(
    annotator: str, parts: Mapping[tuple[int, int], list[Row]], length: int, about: Mapping[str, Any]
) -> Recording:
    """The strokes of one person on one case, by round and number."""
    count = max([length, *(number + 1 for number, _ in parts)], default=1)
    steps: list[list[Prompt]] = [[] for _ in range(max(count, 1))]
    seconds = []
    for (number, _), rows in sorted(parts.items()):
        steps[number].append(_prompt(sorted(rows, key=lambda row: row.get("order") or 0)))
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


def _prompt(rows: Sequence[Row]) -> Prompt:
    voxels = tuple((row["i"], row["j"], row["k"]) for row in rows)
    ahead, lesion, number = rows[0]["polarity"] == "foreground", rows[0].get("lesion"), rows[0]["round"]
    if rows[0]["kind"] == "box":
        return Box(voxels[0], voxels[-1], ahead, lesion, number)
    if rows[0]["kind"] == "click" and len(voxels) == 1:
        return Click(voxels[0], ahead, lesion, number)
    return Scribble(voxels, ahead, lesion, number)


def _nearest(case: Case, own: Sequence[Prompt], other: Sequence[Prompt]) -> list[tuple[float, bool]]:
    """For each prompt the distance to the nearest one of the other person, and whether its polarity is the same."""
    from scipy.spatial import cKDTree

    owner = np.repeat(np.arange(len(other)), [len(prompt.voxels) for prompt in other])
    tree = cKDTree(np.concatenate([_mm(case, prompt) for prompt in other]))
    found = []
    for prompt in own:
        distances, places = tree.query(_mm(case, prompt))
        best = int(np.argmin(distances))
        found.append((float(distances[best]), other[owner[places[best]]].foreground == prompt.foreground))
    return found


def _mm(case: Case, prompt: Prompt) -> Floats:
    return np.asarray(prompt.voxels, np.float64) * np.asarray(case.scan.grid.spacing or (1.0, 1.0, 1.0))


def _lesions_under(case: Case, prompts: Sequence[Prompt]) -> set[int]:
    """Ids of the lesions that foreground prompts touch."""
    voxels = [prompt.voxels for prompt in prompts if prompt.foreground]
    return {
        lesion.id
        for lesion in find_lesions(case.truth)
        if any(lesion.holds(voxel) for path in voxels for voxel in path)
    }


def _read(file: Path) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(file, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise PromptFormatError(f"cannot read recorded prompts: {error} ({file})") from error
