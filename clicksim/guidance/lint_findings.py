"""The findings of the guidance linter."""

from collections.abc import Sequence
from dataclasses import dataclass

VERDICTS = ("good", "note", "suspect", "bad")


@dataclass(frozen=True)
class LintFinding:
    """The verdict of one check.

    Attributes:
        check: Its name.
        channel: `foreground`, `background`, `both` or `model`.
        verdict: `good`; `note` (not a fault, but worth knowing); `suspect` (probably not intended); or `bad`.
        reason: One sentence with the number that it is based on.
        value: That number, if there is one.
    """

    check: str
    channel: str
    verdict: str
    reason: str
    value: float | None = None


def worst(findings: Sequence[LintFinding]) -> str:
    """The worst verdict among some findings; `good` for none."""
    return max((finding.verdict for finding in findings), key=VERDICTS.index, default="good")


def format_findings(findings: Sequence[LintFinding]) -> str:
    """Format findings as text, one line each, with an overall verdict at the end."""
    lines = [f"{f.verdict:8} {f.check:12} {f.channel:11} {f.reason}" for f in findings]
    faults = sum(f.verdict in ("suspect", "bad") for f in findings)
    end = f"{faults} of {len(findings)} checks found a fault" if faults else f"no fault in {len(findings)} checks"
    return "\n".join([*lines, f"verdict: {worst(findings)}; {end}"])
