"""`clicksim annotators`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clicksim.cli.options import IMAGE, OUTPUT, given_options
from clicksim.cli.paths import CatalogPath, check_distinct, write_result

if TYPE_CHECKING:
    from clicksim.simulate.annotators.annotator_files import RecordedFit
    from clicksim.simulate.annotators.people import Annotator

ASSUMED = "The presets are assumptions; they are not fitted to a recorded person."


@click.command("annotators")
@click.argument("names", nargs=-1, metavar="[NAME | PROMPTS...]")
@click.option("--fit", "fits", is_flag=True, help="Fit an annotator to PROMPTS: Parquet files, or runs of --catalog.")
@click.option("--catalog", type=CatalogPath(), help="With --fit: the catalog of the cases and runs.")
@click.option("--label", type=IMAGE, help="With --fit: the label of the case, or a folder of labels.")
@click.option("--pet", type=IMAGE, help="With --label: uptake, for the contrast of lesions; for a folder, a folder.")
@click.option("--of", "person", metavar="NAME", help="With --fit: only the rows of this annotator.")
@click.option("--name", default="fitted", show_default=True, help="With --fit: name of the annotator.")
@click.option("--seed", type=int, default=42, show_default=True, help="With --fit: seed of the bootstrap.")
@click.option("--out", type=OUTPUT, help="Write the annotator as TOML, for --annotator.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def command(names: tuple[str, ...], fits: bool, out: Path | None, as_json: bool, **of_fit: Any) -> None:
    """Models of the person who prompts: show them, or fit one to recorded prompts.

    A model displaces clicks, misses lesions, confuses polarity, repeats clicks and adds tremor to strokes. The option
    `--annotator` of clicks, scribbles and rounds takes a preset or a TOML file.

    \b
    Examples:
      clicksim annotators
      clicksim annotators hurried --out mine.toml
      clicksim annotators --fit recorded.parquet --label labelsTr --pet imagesTr --out reader.toml
      clicksim annotators --fit RUN --catalog CATALOG --json
    """  # noqa: D301 - click wants the character itself
    read = {name: Path(name) for name in names}
    check_distinct({**read, "--label": of_fit["label"], "--pet": of_fit["pet"]}, {"--out": out})
    if fits:
        found = _fit(names, **of_fit)
        _write(out, found.fit.annotator)
        click.echo(json.dumps(_fit_facts(found), indent=1, allow_nan=False) if as_json else _fit_page(found))
        return
    idle = given_options(but=("names", "out", "as_json"))
    if idle:
        raise click.UsageError(f"options that need --fit: {', '.join(idle)}")
    if len(names) > 1:
        raise click.UsageError(f"give one NAME, got {', '.join(names)}; prompt files need --fit")
    if out and not names:
        raise click.UsageError("--out needs NAME or --fit")
    from clicksim.simulate.annotators.annotator_files import annotator_facts, open_annotator
    from clicksim.simulate.annotators.people import PRESETS

    shown = [open_annotator(names[0])] if names else list(PRESETS.values())
    if names:
        _write(out, shown[0])
    if as_json:
        facts = [annotator_facts(model) for model in shown]
        click.echo(json.dumps(facts[0] if names else facts, allow_nan=False))
    else:
        click.echo(_page(shown))


def _fit(
    names: tuple[str, ...],
    catalog: str | Path | None,
    label: Path | None,
    pet: Path | None,
    person: str | None,
    name: str,
    seed: int,
) -> "RecordedFit":
    from clicksim.catalog import open_catalog
    from clicksim.simulate.annotators import annotator_files as files

    if not names:
        raise click.UsageError("--fit needs PROMPTS: Parquet files, or runs of --catalog")
    if pet and label is None:
        raise click.UsageError("--pet needs --label")
    if label is not None and catalog is None:
        cases = files.cases_of_files(label, pet)
        tables = [files.read_rows(Path(path)) for path in names]
    elif catalog is not None and label is None:
        opened = open_catalog(catalog)
        cases, runs = files.cases_of_catalog(opened), opened.parts("prompts")
        tables = [opened.table("prompts", run) if run in runs else files.read_rows(Path(run)) for run in names]
    else:
        raise click.UsageError("--fit needs the labels of the cases: give either --catalog or --label")
    return files.fit_rows(tables, cases, name=name, annotator=person, seed=seed)


def _write(out: Path | None, model: "Annotator") -> None:
    if out is None:
        return
    from clicksim.simulate.annotators.annotator_files import annotator_toml

    write_result(out, annotator_toml(model))


def _page(models: "list[Annotator]") -> str:
    """Show annotators side by side, each parameter with its meaning."""
    from clicksim.simulate.annotators.annotator_files import MEANINGS

    rows = [asdict(model) for model in models]
    lines = [f"{'':18}" + "".join(f"{row['name']:>10}" for row in rows)]
    for key, meaning in MEANINGS.items():
        values = "".join(f"{row[key]:>10}" if isinstance(row[key], str) else f"{row[key]:>10.4g}" for row in rows)
        lines.append(f"{key:18}{values}  {meaning}")
    if any(model.source == "assumed" for model in models):
        lines += ["", ASSUMED]
    return "\n".join(lines)


def _fit_facts(found: "RecordedFit") -> dict[str, Any]:
    from clicksim.simulate.annotators.annotator_files import annotator_facts

    fit = found.fit
    finite = {key: [None if abs(v) == float("inf") else v for v in pair] for key, pair in fit.intervals.items()}
    return {
        "annotator": annotator_facts(fit.annotator),
        "intervals": finite,
        "offset_p": fit.offset_p,
        "miss_error": fit.miss_error,
        "lesions": fit.lesions,
        "clicks": fit.clicks,
        "cases": found.games,
        "strays": found.strays,
        "strokes": found.strokes,
    }


def _fit_page(found: "RecordedFit") -> str:
    """Return the fit as text: each parameter with its interval and meaning, then the quality of the fit."""
    from clicksim.simulate.annotators.annotator_files import MEANINGS

    fit, values = found.fit, asdict(found.fit.annotator)
    lines = [f"{values['name']}: {values['source']}, in {found.games} game{'s' * (found.games != 1)}"]
    for key, (low, high) in fit.intervals.items():
        if key == "tremor_mm":
            continue  # no stroke was fitted
        spread = f"{values[key]:.4g} ({low:.4g} to {high:.4g})"
        lines.append(f"{key:18}{spread:32}{MEANINGS[key]}")
    lines += [
        f"offset_p          {fit.offset_p:<32.3g}probability of displacements at least this unlike the model",
        f"miss_error        {fit.miss_error:<32.3g}mean difference between predicted and observed misses",
    ]
    if found.strays:
        lines.append(f"left out: {found.strays} foreground clicks far from every lesion")
    if found.strokes:
        lines.append(f"left out: {found.strokes} scribbles and boxes; the tremor is not fitted")
    return "\n".join(lines)
