"""Croissant 1.0: JSON-LD that describes the tables of a catalog, with the tables beside it, ready for publication.

The folder holds `croissant.json` and one Parquet file per table, limited to the exported cases: rows without images,
and nothing of `runs/`. Each column becomes a field with its meaning.

Source: Croissant format specification 1.0, MLCommons.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clicksim.catalog.commit import Commit
from clicksim.catalog.remote.places import inside
from clicksim.catalog.schema import table_schema
from clicksim.errors import CatalogError, SettingError
from clicksim.manifests.export_format import CaseFiles, ExportedCases, ExportFormat
from clicksim.manifests.folder import write_json
from clicksim.manifests.selection import Export, ExportCase, ExportSetup
from clicksim.settings import Setting, Value, fill_settings

if TYPE_CHECKING:
    import pyarrow as pa

FILE = "croissant.json"
CONFORMS = "http://mlcommons.org/croissant/1.0"
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
LICENCE_URLS = {
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC-BY-NC-4.0": "https://creativecommons.org/licenses/by-nc/4.0/",
    "CC-BY-NC-SA-4.0": "https://creativecommons.org/licenses/by-nc-sa/4.0/",
    "CC-BY-NC-ND-4.0": "https://creativecommons.org/licenses/by-nc-nd/4.0/",
}


SETTINGS = {
    "name": Setting("str", "name of the dataset", default="clicksim-catalog"),
    "url": Setting("str", "where it will be published; empty if unknown", default=""),
    "published": Setting("str", "day of publication, such as 2026-12-01; empty if unknown", default=""),
}


def check_day(given: Mapping[str, Value]) -> dict[str, Value]:
    """Check the settings of the format and return all of them.

    Raises:
        SettingError: See `fill_settings`; also if the day of publication is not a date.
    """
    settings = fill_settings(SETTINGS, given, "the export croissant")
    try:
        settings["published"] = date.fromisoformat(settings["published"]).isoformat() if settings["published"] else ""
    except ValueError as error:
        raise SettingError(f"the day of publication must be like 2026-12-01, got {settings['published']!r}") from error
    return settings


def describe_case(setup: ExportSetup, case: ExportCase, folder: Path) -> CaseFiles:  # noqa: ARG001 - of any format
    """Write nothing: the tables have a row for each case."""
    return CaseFiles({})


def finish_croissant(done: ExportedCases, commit: Commit) -> list[str]:
    """Write `croissant.json` and the tables of the exported cases."""
    import pyarrow.parquet as pq

    files, records = [], []
    for name, table in _tables(done.export).items():
        with commit.file(f"{name}.parquet") as temporary:
            pq.write_table(table, temporary, compression="zstd")
            files.append(_file_object(f"{name}.parquet", temporary))
        records.append(_record_set(name, table))
    content, notes = _describe(done.export), []
    content |= {"name": done.settings["name"], "distribution": files, "recordSet": records}
    for key, setting in (("url", "url"), ("datePublished", "published")):
        if done.settings[setting]:
            content[key] = done.settings[setting]
        else:
            notes.append(f"croissant.json has no {key}; add it with --{setting} once it is known")
    write_json(commit, FILE, content)
    return notes


def _describe(export: Export) -> dict[str, Any]:
    """Describe the whole dataset in the terms of Croissant."""
    sources = export.about["sources"]
    titles = [source["title"] or source["source"] for source in sources]
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS,
        "name": "",
        "description": f"Cases, lesions and prompts for interactive lesion segmentation, from {', '.join(titles)}. The "
        "tables name images; they do not contain them.",
        "license": LICENCE_URLS.get(export.about["licence"], export.about["licence"]),
        "version": "1.0.0",
        "citeAs": "\n".join(source["citation"] or source["source"] for source in sources),
        "creator": [{"@type": "sc:Organization", "name": title} for title in titles],
        "isBasedOn": [f"https://doi.org/{doi}" for source in sources for doi in _dois(source["doi"])],
    }


def check_croissant(out: Path) -> list[str]:
    """List faults: missing fields of Croissant, files and hashes that differ, fields that name no column."""
    import pyarrow.parquet as pq

    try:
        content = json.loads((out / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return [f"{FILE} cannot be read: {error}"]
    faults = [
        f"{FILE} has no {key}"
        for key in ("@context", "@type", "conformsTo", "name", "description", "license", "distribution", "recordSet")
        if not content.get(key)
    ]
    columns: dict[str, list[str]] = {}
    for entry in content.get("distribution", []):
        try:
            file = inside(out, entry["contentUrl"])
        except CatalogError as error:
            faults.append(str(error))
            continue
        if not file.is_file():
            faults.append(f"{entry['contentUrl']} does not exist")
        elif _sha256(file) != entry["sha256"]:
            faults.append(f"{entry['contentUrl']} has a different SHA-256")
        else:
            columns[entry["@id"]] = pq.read_schema(file).names
    for record in content.get("recordSet", []):
        for field in record["field"]:
            source = field["source"]
            name, column = source["fileObject"]["@id"], source["extract"]["column"]
            if name in columns and column not in columns[name]:
                faults.append(f"field {field['@id']} names column {column}, which {name} does not have")
    return faults


def _tables(export: Export) -> dict[str, "pa.Table"]:
    """The tables, limited to the exported cases, with dictionaries as plain text."""
    import pyarrow.compute as pc

    catalog = export.catalog
    sources = sorted({case.row["source"] for case in export.cases})
    tables = {name: catalog.table(name) for name in ("cases", "lesions", "links")}
    tables = {name: table.filter(pc.field("source").isin(sources)) for name, table in tables.items()}
    if export.run:
        ids = [case.case_id for case in export.cases]
        tables["prompts"] = catalog.table("prompts", export.run).filter(pc.field("case").isin(ids))
    return {name: _plain(table) for name, table in tables.items() if len(table)}


def _plain(table: "pa.Table") -> "pa.Table":
    import pyarrow as pa

    columns = [
        column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column for column in table.itercolumns()
    ]
    return pa.table(columns, names=table.column_names)


def _file_object(name: str, file: Path) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "encodingFormat": "application/x-parquet",
        "contentSize": f"{file.stat().st_size} B",
        "sha256": _sha256(file),
    }


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _record_set(name: str, table: "pa.Table") -> dict[str, Any]:
    """A table as a record set; meanings come from the schema."""
    schema = table_schema(name)
    meanings = {field.name: (field.metadata or {}).get(b"meaning", b"").decode() for field in schema}
    fields = [_field(name, column.name, column.type, meanings.get(column.name, "")) for column in table.schema]
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "field": fields}


def _field(table: str, column: str, kind: "pa.DataType", meaning: str) -> dict[str, Any]:
    import pyarrow as pa

    field: dict[str, Any] = {
        "@type": "cr:Field",
        "@id": f"{table}/{column}",
        "name": column,
        "description": meaning or f"the {column}",
    }
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        field["repeated"] = True
        kind = kind.value_type
    field["dataType"] = _data_type(kind)
    field["source"] = {"fileObject": {"@id": f"{table}.parquet"}, "extract": {"column": column}}
    return field


def _data_type(kind: "pa.DataType") -> str:
    import pyarrow as pa

    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    if pa.types.is_floating(kind):
        return "sc:Float"
    return "sc:Date" if pa.types.is_date(kind) else "sc:Text"


def _dois(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip().startswith("10.")]


FORMAT = ExportFormat(
    "croissant",
    "Croissant 1.0: JSON-LD with the tables beside it, ready for publication.",
    write_case=describe_case,
    finish=finish_croissant,
    check=check_croissant,
    settings=SETTINGS,
    complete=check_day,
)
