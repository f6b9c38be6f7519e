"""Hugging Face: a `niftifolder`, which `load_dataset("niftifolder", data_dir=OUT)` reads without a script.

    train/metadata.parquet      a row per case; its columns `<channel>_file_name` and `label_file_name` become images
    train/ct, pet, label/...
    test/...                    the same for cases that the publisher holds out

Folders name the splits, since the loader looks at file names too: without folders, a case called `train_0001` would
make it ignore all files of other names.
Prompts are lists of voxels `{i, j, k, polarity, kind, round}`. `README.md` is the card of the dataset, with the
licence in its head.

Source: documentation of Hugging Face Datasets, create a dataset from a folder of images.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from clicksim.catalog.commit import Commit
from clicksim.manifests.export_format import CaseFiles, ExportedCases, ExportFormat
from clicksim.manifests.folder import licence_text
from clicksim.manifests.images import SUFFIX, need_channels, place_export_image, place_label
from clicksim.manifests.nnunet import COPY
from clicksim.manifests.selection import Export, ExportCase, ExportSetup

if TYPE_CHECKING:
    import pyarrow as pa

METADATA = "metadata.parquet"
KEPT = ("source", "case_id", "patient_key", "tracer_class", "sex", "age_years", "diagnosis", "n_lesions",
        "lesion_volume_ml", "licence")  # fmt: skip
PROMPT_FIELDS = ("i", "j", "k", "polarity", "kind", "round")
CARD_LICENCES = {"CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "CC-BY-NC-ND-4.0"}


def write_split_case(setup: ExportSetup, case: ExportCase, folder: Path) -> CaseFiles:
    """Write label and images of a case into the folder of its split."""
    split, copy = split_of(case), setup.settings["copy"]
    files = {channel.name.lower(): f"{channel.name.lower()}/{case.name}{SUFFIX}" for channel in setup.channels}
    files["label"] = f"label/{case.name}{SUFFIX}"
    place_label(setup, case, folder / split / files["label"], copy=copy)
    for channel in setup.channels:
        place_export_image(setup, case, channel.column, folder / split / files[channel.name.lower()], copy=copy)
    return CaseFiles({name: f"{split}/{file}" for name, file in files.items()})


def finish_splits(done: ExportedCases, commit: Commit) -> list[str]:
    """Write `metadata.parquet` of each split, and the card."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: dict[str, list[dict[str, Any]]] = {}
    for case in done.cases:
        rows.setdefault(split_of(case), []).append(_metadata(done, case))
    for split, listed in rows.items():
        with commit.file(f"{split}/{METADATA}") as temporary:
            pq.write_table(pa.Table.from_pylist(listed, _schema(done.export)), temporary)
    commit.text("README.md", _card(done.export))
    return []


def split_of(case: ExportCase) -> str:
    """The split of a case: `train` or `test`."""
    return "test" if case.held_out else "train"


def check_huggingface(out: Path) -> list[str]:
    """The faults of the folder: missing columns that name files, and files that do not exist."""
    faults = []
    found = [out / split / METADATA for split in ("train", "test") if (out / split / METADATA).exists()]
    for file in found:
        faults += _check_split(file)
    return faults if found else [f"{METADATA} is in neither train nor test"]


def _check_split(metadata: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(metadata).read()
    except (OSError, pa.ArrowException) as error:
        return [f"{metadata.parent.name}/{METADATA} cannot be read: {error}"]
    columns = [name for name in table.column_names if name.endswith("_file_name")]
    if not columns:
        return [f"{metadata.parent.name}/{METADATA} has no column that ends in _file_name"]
    faults = []
    for file in (file for name in columns for file in table[name].to_pylist()):
        if Path(file).is_absolute() or ".." in Path(file).parts:
            faults.append(f"{file} leaves the folder")
        elif not (metadata.parent / file).is_file():
            faults.append(f"{metadata.parent.name}/{file} does not exist")
    return faults


def _metadata(done: ExportedCases, case: ExportCase) -> dict[str, Any]:
    content: dict[str, Any] = {
        f"{name}_file_name": file.partition("/")[2] for name, file in done.written[case.key].files.items()
    }
    content |= {name: case.row[name] for name in KEPT} | {"fold": case.fold}
    if done.export.run:
        content["prompts"] = [{name: prompt[name] for name in PROMPT_FIELDS} for prompt in case.prompts]
    return content


def _schema(export: Export) -> "pa.Schema":
    import pyarrow as pa

    kinds = {"age_years": pa.float32(), "n_lesions": pa.int32(), "lesion_volume_ml": pa.float64()}
    names = [*(c.name.lower() for c in export.channels), "label"]
    fields = [pa.field(f"{name}_file_name", pa.string()) for name in names]
    fields += [pa.field(name, kinds.get(name, pa.string())) for name in KEPT]
    fields.append(pa.field("fold", pa.int16()))
    if export.run:
        text = {"polarity", "kind"}
        prompt = pa.struct([(name, pa.string() if name in text else pa.int32()) for name in PROMPT_FIELDS])
        fields.append(pa.field("prompts", pa.list_(prompt)))
    return pa.schema(fields)


def _card(export: Export) -> str:
    """The card; a licence without a name on the hub is `other`."""
    licence = export.about["licence"]
    word = licence.lower() if licence in CARD_LICENCES else "other"
    head = ["---", f"license: {word}"]
    head += [] if word != "other" else [f"license_name: {licence.lower().replace(' ', '-').replace(':', '')}"]
    head += ["task_categories:", "- image-segmentation", "tags:", "- medical", "---", ""]
    return "\n".join(head) + licence_text(export)


FORMAT = ExportFormat(
    "huggingface",
    "Hugging Face: a niftifolder for load_dataset.",
    write_case=write_split_case,
    finish=finish_splits,
    check=check_huggingface,
    settings={"copy": COPY},
    prepare=need_channels,
)
