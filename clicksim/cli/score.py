"""`clicksim score`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clicksim.cli.options import CASE_ID, INPUT, OUTPUT, SETTINGS, Number
from clicksim.cli.pairs import read_settings
from clicksim.cli.paths import check_distinct, making_folder

if TYPE_CHECKING:
    import pyarrow as pa


@click.command("score")
@click.option("--label", type=INPUT, required=True, help="The truth: a mask or an instance map.")
@click.option("--prediction", type=INPUT, required=True, help="On the grid of the label.")
@click.option(
    "--protocol",
    default="autopet-v@1",
    show_default=True,
    help="The rule: published, since a score is compared with others'.",
)
@SETTINGS
@CASE_ID
@click.option("--surface-mm", type=Number(min=0), metavar="MM", help="Surface Dice with this tolerance as well.")
@click.option(
    "--lesions",
    "table",
    type=OUTPUT,
    metavar="FILE",
    help="Write one row per lesion, .csv or .parquet: its voxels, best IoU, and whether it was touched and found.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object; what is undefined is null.")
def command(
    label: Path,
    prediction: Path,
    protocol: str,
    pairs: tuple[str, ...],
    case_id: str | None,
    surface_mm: float | None,
    table: Path | None,
    as_json: bool,
) -> None:
    """Score a prediction: Dice, lesion F1 (dmm), false-positive and false-negative volume.

    Volumes use the voxel size of the label. A case without lesions is scored as the protocol says.

    \b
    Examples:
      clicksim score --label case.nii.gz --prediction mine.nii.gz
      clicksim score --label case.nii.gz --prediction mine.nii.gz --protocol autopet-v@2 --json
      clicksim score --label case.nii.gz --prediction mine.nii.gz --surface-mm 3 --lesions lesions.csv
    """  # noqa: D301 - click wants the character itself
    from clicksim.metrics import compare, surface_dice
    from clicksim.volumes import case_id_of, read_label

    if table is not None and table.suffix not in (".csv", ".parquet"):
        raise click.UsageError(f"--lesions takes a file that ends in .csv or .parquet, got {table.name}")
    check_distinct({"--label": label, "--prediction": prediction}, {"--lesions": table})
    truth, mask = read_label(label), read_label(prediction)
    name = case_id_of(label) if case_id is None else case_id
    truth.grid.check_same(mask.grid, ("label", "prediction"), where=f"case {name}")
    settings = read_settings(pairs, ("protocol",))
    spacing = truth.grid.spacing
    compared = compare(mask.array, truth.array, spacing=spacing, protocol=protocol, where=name, **settings)
    found = {"case": name, **compared.scores.to_dict()}
    if surface_mm is not None:
        found["surface_dice"] = surface_dice(mask.array, truth.array, spacing=spacing or (), tolerance_mm=surface_mm)
    if table is not None:
        _write_table(table, compared.to_table())
    click.echo(json.dumps(found, allow_nan=False) if as_json else _page(found))


def _write_table(file: Path, rows: "pa.Table") -> None:
    from pyarrow import csv, parquet

    from clicksim.files import replacing

    with making_folder(file), replacing(file) as temporary:
        if file.suffix == ".csv":
            csv.write_csv(rows, temporary)
        else:
            parquet.write_table(rows, temporary)


def _page(found: dict[str, Any]) -> str:
    """One score on a line."""
    texts = {name: "undefined" if value is None else value for name, value in found.items()}
    return "\n".join(f"{name:18}{_short(value)}" for name, value in texts.items())


def _short(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
