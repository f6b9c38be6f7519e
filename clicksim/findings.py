"""What a check found: one record for the checks of catalogs, exports, reports and guidance.

Finding                 what is wrong, how bad it is, and where
sort_findings           the worst first
format_findings         as text, a line each
findings_table          as a table, a row each
plain_findings          as plain data, for JSON
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

SEVERITIES = ("error", "warning", "note", "good")
"""error: a result would be wrong; warning: probably not what was meant; note: worth knowing; good: the check passed."""


@dataclass(frozen=True)
class Finding:
    """A result of a check.

    Attributes:
        severity: One of `SEVERITIES`.
        check: The name of the check.
        cases: The cases concerned; empty for the whole of what was checked.
        detail: One sentence: what is wrong, what was found, what was expected.
        channel: Of guidance, the channel: `foreground`, `background`, `both` or `model`.
        value: The number on which the verdict rests, if there is one.
    """

    severity: str
    check: str
    cases: tuple[str, ...]
    detail: str
    channel: str = ""
    value: float | None = None

    @property
    def place(self) -> str:
        """The cases or the channel concerned; `-` for the whole."""
        return ", ".join(self.cases) or self.channel or "-"


def sort_findings(findings: Iterable[Finding]) -> list[Finding]:
    """The findings, each once: the worst first, then by check and cases."""
    return sorted(set(findings), key=lambda f: (SEVERITIES.index(f.severity), f.check, f.cases, f.detail))


def worst_severity(findings: Iterable[Finding]) -> str:
    """The worst severity among some findings; `good` if there are none."""
    return min((finding.severity for finding in findings), key=SEVERITIES.index, default="good")


def format_findings(findings: Iterable[Finding]) -> str:
    """The findings as text, one line each.

    >>> format_findings([Finding("error", "keys", ("a", "b"), "2 rows in fdat")])
    'error    keys            a, b  2 rows in fdat'
    """
    return "\n".join(f"{f.severity:8} {f.check:15} {f.place}  {f.detail}" for f in findings)


def plain_findings(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """The findings as plain data, for JSON. `channel` and `value` are left out where they are empty."""
    rows = []
    for finding in findings:
        row: dict[str, Any] = {
            "severity": finding.severity,
            "check": finding.check,
            "cases": list(finding.cases),
            "detail": finding.detail,
        }
        row |= {"channel": finding.channel} if finding.channel else {}
        row |= {"value": finding.value} if finding.value is not None else {}
        rows.append(row)
    return rows


def findings_table(findings: Sequence[Finding]) -> "pa.Table":
    """The findings as rows, in their order."""
    import pyarrow as pa

    columns: list[tuple[str, Any, str]] = [
        ("severity", pa.string(), f"one of {', '.join(SEVERITIES)}"),
        ("check", pa.string(), "name of the check"),
        ("cases", pa.list_(pa.string()), "the cases concerned; empty for the whole of what was checked"),
        ("detail", pa.string(), "what is wrong, what was found, what was expected"),
    ]
    schema = pa.schema([pa.field(name, kind, metadata={"meaning": meaning}) for name, kind, meaning in columns])
    return pa.Table.from_pylist(plain_findings(findings), schema)
