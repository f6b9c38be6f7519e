"""`clicksim refine`."""

from pathlib import Path

import click

from clicksim.cli.options import INPUT, OUTPUT, given_options
from clicksim.cli.paths import check_distinct


@click.command("refine")
@click.option("--prediction", type=INPUT, required=True, help="Predicted lesions, on the native grid of the PET.")
@click.option("--pet", type=INPUT, required=True, help="Uptake, in the unit of the threshold.")
@click.option(
    "--threshold", type=float, required=True, help="Threshold of the case; voxels at or above it can be lesion."
)
@click.option(
    "--dilation",
    type=float,
    default=5.0,
    show_default=True,
    metavar="MM",
    help="How far the prediction may grow; 7 in the baseline.",
)
@click.option("--organs", type=INPUT, help="Organ labels on the same grid, such as those of TotalSegmentator.")
@click.option(
    "--keep",
    default="liver",
    show_default=True,
    metavar="NAME,...",
    help="With --organs: organs in which the prediction does not change; names or labels, such as liver,21.",
)
@click.option("--normal", type=INPUT, help="Predicted normal uptake, which is removed.")
@click.option(
    "--normal-value", type=click.IntRange(1), help="The value of normal uptake in a prediction of several classes."
)
@click.option("--out", type=OUTPUT, required=True, help="The refined prediction: .nii.gz, .nii or .mha.")
def command(
    prediction: Path,
    pet: Path,
    threshold: float,
    dilation: float,
    organs: Path | None,
    keep: str,
    normal: Path | None,
    normal_value: int | None,
    out: Path,
) -> None:
    """Fit a prediction to the uptake by the threshold of its case, as DEEP-PSMA does.

    The prediction is dilated, and voxels below the threshold are removed. In the organs of --keep the prediction does
    not change. Predicted normal uptake is removed.

    \b
    Examples:
      clicksim refine --prediction mine.nii.gz --pet pet.nii.gz --threshold 3.0 --out refined.nii.gz
      clicksim refine --prediction mine.nii.gz --pet pet.nii.gz --threshold 3.0 --dilation 7 --organs totseg.nii.gz
        --keep liver,kidney_left,kidney_right,urinary_bladder --normal-value 2 --out refined.nii.gz
    """  # noqa: D301 - click wants the character itself
    from clicksim.errors import GeometryError
    from clicksim.refine import refine_prediction
    from clicksim.volumes import case_id_of, read_label, write_image
    from clicksim.volumes.case import read_pet

    if normal and normal_value:
        raise click.UsageError("give either --normal or --normal-value")
    if organs is None and "--keep" in given_options():
        raise click.UsageError("--keep has no effect without --organs")
    read = {"--prediction": prediction, "--pet": pet, "--organs": organs, "--normal": normal}
    check_distinct(read, {"--out": out})
    mask, (uptake, doubts) = read_label(prediction), read_pet(pet)
    regions = None if organs is None else read_label(organs)
    other = None if normal is None else read_label(normal)
    name = f"case {case_id_of(prediction)}"
    for sentence in doubts:
        click.echo(f"{name}: {sentence}", err=True)
    for kind, volume in (("PET", uptake), ("organ mask", regions), ("normal uptake", other)):
        if volume is not None:
            mask.grid.check_same(volume.grid, ("prediction", kind), where=name)
    if mask.grid.spacing is None:
        raise GeometryError(f"{prediction} has no voxel size")
    lesions, taken = mask.array, None if other is None else other.array
    if normal_value is not None:
        taken = lesions == normal_value
        lesions = (lesions != 0) & ~taken
    refined = refine_prediction(
        lesions,
        uptake.array,
        threshold=threshold,
        spacing=mask.grid.spacing,
        dilation_mm=dilation,
        organs=None if regions is None else regions.array,
        keep=[organ.strip() for organ in keep.split(",") if organ.strip()],
        normal=taken,
    )
    write_image(out, refined, mask.grid)
    before, after = int((lesions != 0).sum()), int(refined.sum())
    click.echo(f"{after * mask.grid.voxel_ml:.2f} ml after, {before * mask.grid.voxel_ml:.2f} ml before", err=True)
