"""The findings of an audit as a table, or as one page that needs no script and loads nothing from elsewhere."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from clicksim import __version__
from clicksim.files import clear_abandoned, make_folder, open_templates, replacing, write_text
from clicksim.findings import SEVERITIES, Finding, findings_table


def write_audit_page(
    path: str | Path, findings: Sequence[Finding], *, checks: Mapping[str, str], title: str, about: str = ""
) -> Path:
    """Write the page, complete or not at all. All text is escaped.

    Args:
        path: The HTML file; an existing one is replaced.
        findings: In the order in which they are shown within their check.
        checks: The checks that were made, each with its description; those without a finding are listed too.
        title: Heading and window title.
        about: One paragraph below it.
    """
    counts = Counter(finding.severity for finding in findings)
    names = [*checks, *sorted({finding.check for finding in findings} - set(checks))]
    found = {name: [finding for finding in findings if finding.check == name] for name in names}
    text = (
        open_templates("clicksim.audit")
        .get_template("page.html.j2")
        .render(
            title=title,
            about=about,
            version=__version__,
            counts=[(severity, counts[severity]) for severity in SEVERITIES if severity != "good"],
            sections=[(name, checks.get(name, ""), rows) for name, rows in found.items() if rows],
            clean=[(name, checks.get(name, "")) for name, rows in found.items() if not rows],
        )
    )
    target = Path(path)
    make_folder(target.parent)
    clear_abandoned(target)
    write_text(target, text)
    return target


def write_audit_table(path: Path, findings: Sequence[Finding]) -> None:
    """Write the findings as Parquet, complete or not at all."""
    import pyarrow.parquet as pq

    make_folder(path.parent)
    clear_abandoned(path)
    with replacing(path) as temporary:
        pq.write_table(findings_table(findings), temporary, compression="zstd")
