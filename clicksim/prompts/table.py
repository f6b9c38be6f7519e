"""Prompt tables: prompts are stored with one row per voxel.

Values that apply to the whole set (protocol, settings, seed, versions) are in the table's metadata.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clicksim.errors import PromptFormatError
from clicksim.prompts.formats import replacing_prompts
from clicksim.prompts.kinds import Box, Click, Prompt, Scribble, kind_of

if TYPE_CHECKING:
    import pyarrow as pa

    from clicksim.prompts.records import Prompts

METADATA_KEY = b"clicksim"
NEEDED = ("case", "round", "polarity", "kind", "stroke", "i", "j", "k")
"""Required columns."""
NUMBERS = ("round", "stroke", "i", "j", "k")
WORDS = {"polarity": ("foreground", "background"), "kind": ("click", "scribble", "box")}
Row = Mapping[str, Any]


def prompt_schema() -> "pa.Schema":
    """The columns of a prompt table."""
    import pyarrow as pa

    number, text = pa.int32(), pa.string()
    columns: list[tuple[str, pa.DataType, str]] = [
        ("case", text, "the case the prompt belongs to"),
        ("lesion", number, "number of the lesion or background component; null where there is none"),
        ("round", number, "exchange with the model, from 0"),
        ("order", number, "place within the case, polarity and round, from 0"),
        ("polarity", pa.dictionary(pa.int8(), text), "foreground or background"),
        ("kind", pa.dictionary(pa.int8(), text), "click, scribble or box"),
        ("stroke", number, "number of the prompt within the case; the voxels of a scribble share it"),
        ("annotator", pa.dictionary(pa.int8(), text), "who made it; simulated for a rule"),
        ("i", number, "voxel index along the first stored axis"),
        ("j", number, "voxel index along the second stored axis"),
        ("k", number, "voxel index along the third stored axis"),
        ("x", pa.float64(), "mm, towards the patient's right; null where only voxels are known"),
        ("y", pa.float64(), "mm, towards anterior"),
        ("z", pa.float64(), "mm, towards superior"),
        ("effort_s", pa.float32(), "seconds that a person, or the model of one, spent on the prompt; null for a rule"),
    ]
    return pa.schema([pa.field(name, kind, metadata={"meaning": meaning}) for name, kind, meaning in columns])


def to_table(prompts: "Prompts") -> "pa.Table":
    """Make the table of one case, with protocol, settings, seed and version in the metadata."""
    import pyarrow as pa

    from clicksim import __version__

    schema = prompt_schema()
    order: Counter[tuple[bool, int]] = Counter()
    rows: dict[str, list[object]] = {name: [] for name in schema.names}
    for stroke, prompt in enumerate(prompts):
        for voxel in prompt.voxels:
            rows["case"].append(prompts.case_id)
            rows["lesion"].append(prompt.lesion)
            rows["round"].append(prompt.round)
            rows["order"].append(order[prompt.foreground, prompt.round])
            rows["polarity"].append("foreground" if prompt.foreground else "background")
            rows["kind"].append(kind_of(prompt))
            rows["stroke"].append(stroke)
            rows["annotator"].append(prompts.annotator)
            for name, index in zip("ijk", voxel, strict=True):
                rows[name].append(index)
            order[prompt.foreground, prompt.round] += 1
    count = len(rows["case"])
    if prompts.grid.affine is None:
        rows["x"] = rows["y"] = rows["z"] = [None] * count
    else:
        mm = prompts.grid.to_mm(np.array([rows["i"], rows["j"], rows["k"]], dtype=np.float64).T)
        for name, column in zip("xyz", mm.T, strict=True):
            rows[name] = column.tolist()
    rows["effort_s"] = [prompts.effort_s] * count
    about = {
        "version": __version__,
        "protocol": prompts.protocol,
        "seed": prompts.seed,
        "settings": dict(prompts.settings),
    }
    metadata = {METADATA_KEY: json.dumps(about, sort_keys=True).encode()}
    return pa.table(rows, schema=schema.with_metadata(metadata))


def prompt_rows(table: "pa.Table", *, where: str = "") -> list[Row]:
    """Check the rows of a prompt table from any source, and return them.

    Args:
        table: Columns as in `prompt_schema`; columns not in `NEEDED` may be missing.
        where: A file to name in errors.

    Raises:
        PromptFormatError: If a column is missing, or a row has a round below 0, an unknown polarity or kind, or an
            invalid voxel.
    """
    missing = [name for name in NEEDED if name not in table.column_names]
    if missing:
        place = f" ({where})" if where else ""
        raise PromptFormatError(
            f"a table of prompts needs the columns {', '.join(NEEDED)}; missing: {', '.join(missing)}{place}"
        )
    rows: list[Row] = table.to_pylist()
    for row in rows:
        _check_row(row, where)
    return rows


def prompt_of(rows: Sequence[Row]) -> Prompt:
    """Make a prompt from its rows, in the order of its voxels."""
    voxels = tuple((row["i"], row["j"], row["k"]) for row in rows)
    kind, foreground, lesion, number = (
        rows[0]["kind"], rows[0]["polarity"] == "foreground", rows[0].get("lesion"), rows[0]["round"]
    )  # fmt: skip
    if kind == "box":
        return Box(voxels[0], voxels[-1], foreground, lesion, number)
    if kind == "click" and len(voxels) == 1:
        return Click(voxels[0], foreground, lesion, number)
    return Scribble(voxels, foreground, lesion, number)


def _check_row(row: Row, where: str) -> None:
    place = f"in case {row['case']}{f' ({where})' if where else ''}"
    odd = [f"{name} {row[name]!r}" for name in NUMBERS if not isinstance(row[name], int)]
    if odd:
        raise PromptFormatError(f"{', '.join(NUMBERS)} of a prompt are whole numbers, got {', '.join(odd)} {place}")
    if row["round"] < 0:
        raise PromptFormatError(f"rounds count from 0, got {row['round']} {place}")
    for name, allowed in WORDS.items():
        if row[name] not in allowed:
            raise PromptFormatError(f"the {name} of a prompt is {' or '.join(allowed)}, got {row[name]!r} {place}")


def write_prompt_table(path: str | Path, table: "pa.Table") -> None:
    """Write rows as Parquet, atomically; an existing file is replaced.

    Raises:
        PromptFormatError, ClicksimError, StorageError: See `replacing_prompts`.
    """
    import pyarrow.parquet as pq

    with replacing_prompts(Path(path)) as temporary:
        pq.write_table(table, temporary, compression="zstd")
