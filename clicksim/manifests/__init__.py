"""Exports of a catalog in formats that trainers, challenges and archives read.

EXPORTS           all formats, by their entry points
ExportFormat      the declaration of a format
select            chooses cases, prompts and folds, with their licences
check_manifest    finds the faults of an export

`clicksim.pipeline.export` writes one.
"""

from clicksim.manifests.export_format import EXPORTS, CaseFiles, ExportedCases, ExportFormat
from clicksim.manifests.folder import Written
from clicksim.manifests.manifest_checks import check_manifest, read_manifest
from clicksim.manifests.selection import Export, ExportCase, ExportSetup, select

__all__ = [
    "EXPORTS",
    "CaseFiles",
    "Export",
    "ExportCase",
    "ExportFormat",
    "ExportSetup",
    "ExportedCases",
    "Written",
    "check_manifest",
    "read_manifest",
    "select",
]
