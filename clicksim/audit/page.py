"""The findings of an audit as one page that opens anywhere: no script, nothing loaded from elsewhere."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from clicksim import __version__
from clicksim.audit.audit_findings import SEVERITIES, AuditFinding
from clicksim.files import open_templates, write_text


def write_audit_page(
    path: str | Path, findings: Sequence[AuditFinding], *, checks: Mapping[str, str], title: str, about: str = ""
) -> Path:
    """Write the page, complete or not at all. All text is escaped.

    Args:
        path: The HTML file; replaced where it exists.
        findings: In the order to show within their check.
        checks: The checks that were made, with what each looks at; those without a finding are named too.
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
            counts=[(severity, counts[severity]) for severity in SEVERITIES],
            sections=[(name, checks.get(name, ""), rows) for name, rows in found.items() if rows],
            clean=[(name, checks.get(name, "")) for name, rows in found.items() if not rows],
        )
    )
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, text)
    return target
