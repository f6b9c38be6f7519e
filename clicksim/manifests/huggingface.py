"""Hugging Face: a `niftifolder`, which `load_dataset("niftifolder", data_dir=OUT)` reads without a script.

    train/metadata.parquet      a row per case; its columns `<channel>_file_name` and `label_file_name` become images
    train/ct, pet, label/...
    test/...                    the same for cases that the publisher holds out, where there are some

Folders name the splits because file names would do so too: without them a case called `train_0001` makes the loader
take files of that name and no other.
Prompts are lists of voxels `{i, j, k, polarity, kind, round}`. `README.md` is the card of the dataset, with the
licence in its head.

Source: documentation of Hugging Face Datasets, create a dataset from a folder of images.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from clicksim.errors import CatalogError, ClicksimError
from clicksim.files import replacing, write_text
from clicksim.manifests.folder import Written, check_copies, finish, licence_text, prepare_folder
from clicksim.manifests.images import SUFFIX, place_export_image, place_label
from clicksim.manifests.selection import Export, key_of

if TYPE_CHECKING:
    import pyarrow as pa

METADATA = "metadata.parquet"
KEPT = ("source", "case_id", "patient_key", "tracer_class", "sex", "age_years", "diagnosis", "n_lesions",
        "lesion_volume_ml", "licence")  # fmt: skip
PROMPT_FIELDS = ("i", "j", "k", "polarity", "kind", "round")
CARD_LICENCES = {"CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "CC-BY-NC-ND-4.0"}


def write_huggingface(export: Export, out: Path, *, copy: bool = False) -> Written:
    """Write images, `metadata.parquet` and the card.

    Args:
        export: What to write.
        out: The folder.
        copy: Copy images instead of linking them; an upload needs copies.

    Raises:
        CatalogError: The cases have no image in common; no case left.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not export.channels:
        raise CatalogError("the cases have no image in common; choose sources with --source")
    if copy:
        check_copies(export, out)
    prepare_folder(out)
    written = Written()
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in export.cases:
        name, split = export.names[key_of(row)], _split(export, row)
        files = {c.name.lower(): f"{c.name.lower()}/{name}{SUFFIX}" for c in export.channels}
        files["label"] = f"label/{name}{SUFFIX}"
        try:
            place_label(export, row, out / split / files["label"], copy=copy)
            for channel in export.channels:
                place_export_image(export, row, channel.column, out / split / files[channel.name.lower()], copy=copy)
        except ClicksimError as error:
            written.refused[row["case_id"]] = str(error)
            for file in files.values():
                (out / split / file).unlink(missing_ok=True)
            continue
        written.files[key_of(row)] = {name: f"{split}/{file}" for name, file in files.items()}
        rows.setdefault(split, []).append(_metadata(export, row, files))
    for split, listed in rows.items():
        with replacing(out / split / METADATA) as temporary:
            pq.write_table(pa.Table.from_pylist(listed, _schema(export)), temporary)
    write_text(out / "README.md", _card(export))
    return finish(out, "huggingface", export, written, {"copy": copy})


def check_huggingface(out: Path) -> list[str]:
    """What is wrong with the folder: the columns that name files, and files that are not there."""
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
            faults.append(f"{metadata.parent.name}/{file} is not there")
    return faults


def _split(export: Export, row: dict[str, Any]) -> str:
    return "test" if export.fold(row) is None and row["official_split"] == "test" else "train"


def _metadata(export: Export, row: dict[str, Any], files: dict[str, str]) -> dict[str, Any]:
    content: dict[str, Any] = {f"{name}_file_name": file for name, file in files.items()}
    content |= {name: row[name] for name in KEPT} | {"fold": export.fold(row)}
    if export.run:
        prompts = export.prompts.get(row["case_id"], [])
        content["prompts"] = [{name: prompt[name] for name in PROMPT_FIELDS} for prompt in prompts]
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
    """The card; a licence that the hub has no word for is `other`."""
    licence = export.about["licence"]
    word = licence.lower() if licence in CARD_LICENCES else "other"
    head = ["---", f"license: {word}"]
    head += [] if word != "other" else [f"license_name: {licence.lower().replace(' ', '-').replace(':', '')}"]
    head += ["task_categories:", "- image-segmentation", "tags:", "- medical", "---", ""]
    return "\n".join(head) + licence_text(export)
