"""The numbers of a run as text."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clicksim.errors import counted
from clicksim.rounds.round_records import Row

SHOWN = ("auc_dice", "auc_dmm", "final_fpv_ml", "final_fnv_ml")


def summary_lines(part: Mapping[str, Any]) -> list[str]:
    """List Dice, lesion F1 and failures over the rounds, then the areas and the volumes of the last round.

    Args:
        part: `all`, or a group, of `clicksim.rounds.summarise`.
    """
    lines = ["round  dice (95 % interval)      dmm (95 % interval)       failed"]
    columns = (part["rounds"]["dice"], part["rounds"]["dmm"], part["failed_by_round"])
    for number, (dice, dmm, failed) in enumerate(zip(*columns, strict=True)):
        lines.append(f"{number:5}  {mean_text(dice):24}  {mean_text(dmm):24}  {failed}")
    return lines + [f"{name:14} {mean_text(part[name])}" for name in SHOWN]


def failure_lines(rows: Iterable[Row]) -> list[str]:
    """List why rounds failed: the ten most frequent reasons, each with its count and first occurrence."""
    places: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["failure"]:
            places.setdefault((row["failure"], row["detail"]), []).append(
                f"case {row['case_id']}, round {row['round']}"
            )
    found = sorted(places.items(), key=lambda item: -len(item[1]))
    lines = [
        f"{counted(len(where), 'round')} failed, first {where[0]}: {code}: {told}" for (code, told), where in found[:10]
    ]
    return lines + ([f"rounds failed for {len(found) - 10} more reasons"] if len(found) > 10 else [])


def mean_text(entry: Mapping[str, Any]) -> str:
    """Write a mean with its interval.

    >>> mean_text({"mean": 0.5, "low": 0.4, "high": 0.6}), mean_text({"mean": None, "low": None, "high": None})
    ('0.500 (0.400 to 0.600)', 'undefined')
    """
    if entry["mean"] is None:
        return "undefined"
    interval = "" if entry["low"] is None else f" ({entry['low']:.3f} to {entry['high']:.3f})"
    return f"{entry['mean']:.3f}{interval}"


def ten_lines(lines: Sequence[str], rest: str) -> list[str]:
    """Return the first ten lines; if there are more, one line says how many."""
    return [*lines[:10], *([f"and {len(lines) - 10} more{rest}"] if len(lines) > 10 else [])]
