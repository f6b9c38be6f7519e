"""`clicksim score`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clicksim.cli.crew import batch_options, open_crew
from clicksim.cli.options import CASE_ID, IMAGE, OUTPUT, SETTINGS, Number, given_options
from clicksim.cli.pairs import read_settings
from clicksim.cli.paths import check_distinct, making_folder
from clicksim.errors import counted

if TYPE_CHECKING:
    import pyarrow as pa

    from clicksim.pipeline.scoring import FolderScores, ScoreRule

FOR_FOLDERS = ("out", "csv_file", "workers", "resume", "overwrite")
FOR_FILES = ("case_id", "table")


@click.command("score")
@click.option("--label", type=IMAGE, required=True, help="The truth: a mask or an instance map; or a folder of them.")
@click.option("--prediction", type=IMAGE, required=True, help="On the grid of the label; or a folder, same names.")
@click.option(
    "--protocol",
    default="autopet-v@1",
    show_default=True,
    help="The rule; by default a published one, so that scores compare with those of others.",
)
@SETTINGS
@CASE_ID
@click.option("--surface-mm", type=Number(min=0), metavar="MM", help="Also the surface Dice with this tolerance.")
@click.option(
    "--lesions",
    "table",
    type=OUTPUT,
    metavar="FILE",
    help="For one case: write one row per lesion, .csv or .parquet: its voxels, best IoU, and whether it was touched "
    "and found.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; an undefined score is null.")
@click.option("--csv", "csv_file", type=OUTPUT, metavar="FILE", help="For folders: write one row per case.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="For folders: write scores.csv and summary.json; --resume and --overwrite need it.",
)
@batch_options("For folders: ", cluster=False)
def command(
    label: Path,
    prediction: Path,
    protocol: str,
    pairs: tuple[str, ...],
    surface_mm: float | None,
    case_id: str | None,
    table: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Score a prediction: Dice, lesion F1 (dmm), false-positive and false-negative volume.

    Volumes use the voxel size of the label. The protocol says how a case without lesions is scored. With two folders,
    each label is compared with the prediction of the same name. A missing prediction is reported and not scored, and
    the exit code is 1.

    \b
    Examples:
      clicksim score --label case.nii.gz --prediction mine.nii.gz
      clicksim score --label case.nii.gz --prediction mine.nii.gz --protocol autopet-v@2 --json
      clicksim score --label case.nii.gz --prediction mine.nii.gz --surface-mm 3 --lesions lesions.csv
      clicksim score --label labelsTr --prediction predictions --csv scores.csv --workers auto
    """  # noqa: D301 - click wants the character itself
    from clicksim.pipeline.scoring import ScoreRule

    if label.is_dir() != prediction.is_dir():
        raise click.UsageError("--label and --prediction must be two files or two folders")
    _check_options(label.is_dir())
    rule = ScoreRule(protocol, read_settings(pairs, ("protocol",)), surface_mm)
    if label.is_dir():
        _score_folder(label, prediction, rule, as_json, **given)
    else:
        _score_file(label, prediction, rule, as_json, case_id, table)


def _check_options(folders: bool) -> None:
    """Reject options without effect."""
    names = FOR_FILES if folders else FOR_FOLDERS
    every = [str(param.name) for param in click.get_current_context().command.params]
    idle = given_options(but=[name for name in every if name not in names])
    if idle:
        raise click.UsageError(f"options without effect on {'folders' if folders else 'one case'}: {', '.join(idle)}")


def _score_folder(
    label: Path,
    prediction: Path,
    rule: "ScoreRule",
    as_json: bool,
    *,
    csv_file: Path | None,
    out: Path | None,
    workers: int | str,
    resume: bool,
    overwrite: bool,
) -> None:
    from clicksim.files import replacing
    from clicksim.pipeline.scoring import score_folder, write_scores
    from clicksim.rounds.texts import ten_lines

    if out is None and (resume or overwrite):
        raise click.UsageError("--resume and --overwrite need --out")
    with open_crew("cases", workers) as crew:
        found = score_folder(label, prediction, rule, out=out, crew=crew, resume=resume, overwrite=overwrite)
    if csv_file is not None:
        with making_folder(csv_file), replacing(csv_file) as temporary:
            write_scores(temporary, found.rows)
    if as_json:
        click.echo(json.dumps({"cases": found.rows, "means": found.means, "refused": found.refused}, allow_nan=False))
    else:
        click.echo(_means(found))
    lines = [f"clicksim: case {row['case_id']} was refused: {row['message']}" for row in found.refused]
    for line in ten_lines(lines, " cases were refused"):
        click.echo(line, err=True)
    if found.refused:
        raise click.exceptions.Exit(1)


def _score_file(
    label: Path, prediction: Path, rule: "ScoreRule", as_json: bool, case_id: str | None, table: Path | None
) -> None:
    from clicksim.pipeline.scoring import score_case
    from clicksim.volumes.case import CaseImages

    if table is not None and table.suffix not in (".csv", ".parquet"):
        raise click.UsageError(f"--lesions takes a file that ends in .csv or .parquet, got {table.name}")
    check_distinct({"--label": label, "--prediction": prediction}, {"--lesions": table})
    found, compared = score_case(CaseImages({"label": label, "prediction": prediction}, case_id or ""), rule)
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


def _means(found: "FolderScores") -> str:
    """Return the means over the cases of a folder."""
    head = f"{counted(len(found.rows), 'case')} scored, {len(found.refused)} refused; means over the cases"
    lines = [f"{name:18}{_short(entry['mean']):12}{entry['n']} cases" for name, entry in found.means.items()]
    return "\n".join([head, *lines])


def _page(found: dict[str, Any]) -> str:
    """Show one score per line."""
    return "\n".join(f"{name:18}{_short(value)}" for name, value in found.items())


def _short(value: Any) -> str:
    if value is None:
        return "undefined"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
