"""What an audit found: how bad it is, in which cases, and why; and all of it as a table."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clicksim.files import replacing

if TYPE_CHECKING:
    import pyarrow as pa

SEVERITIES = ("error", "warning", "note")
"""error: a result on these cases would be wrong; warning: look at the cases; note: good to know."""


@dataclass(frozen=True)
class AuditFinding:
    """One finding.

    Attributes:
        severity: A word of `SEVERITIES`.
        check: The name of the check.
        cases: The cases it is about; empty for the catalog as a whole.
        detail: What is wrong, what came, what was expected.
    """

    severity: str
    check: str
    cases: tuple[str, ...]
    detail: str


def sort_findings(findings: Iterable[AuditFinding]) -> list[AuditFinding]:
    """Worst first, then by check and case; each once."""
    return sorted(set(findings), key=lambda f: (SEVERITIES.index(f.severity), f.check, f.cases, f.detail))


def findings_table(findings: Iterable[AuditFinding]) -> "pa.Table":
    """Findings as rows, in their order."""
    import pyarrow as pa

    columns: list[tuple[str, Any, str]] = [
        ("severity", pa.string(), "error, warning or note"),
        ("check", pa.string(), "name of the check"),
        ("cases", pa.list_(pa.string()), "the cases it is about; none for the catalog as a whole"),
        ("detail", pa.string(), "what is wrong, what came, what was expected"),
    ]
    schema = pa.schema([pa.field(name, kind, metadata={"meaning": meaning}) for name, kind, meaning in columns])
    rows = [{**vars(finding), "cases": list(finding.cases)} for finding in findings]
    return pa.Table.from_pylist(rows, schema)


def write_findings(path: Path, findings: Iterable[AuditFinding]) -> None:
    """Write the rows as Parquet, complete or not at all."""
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        pq.write_table(findings_table(findings), temporary, compression="zstd")
