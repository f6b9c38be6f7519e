"""One self-contained HTML page about a set of cases: no script, nothing loaded from elsewhere."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clicksim.files import replacing
from clicksim.prompts import Prompts
from clicksim.prompts.records import kind_of

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_ROWS = 200


@dataclass(frozen=True)
class PageCase:
    """What the page shows of one case.

    Attributes:
        prompts: Its prompts; their grid gives shape, spacing and millimetres.
        picture: A picture of it, such as `draw_preview` makes; None where there is none.
        tracer: Such as `fdg`; empty where unknown.
        n_lesions: How many lesions it has; None where unknown.
        volume_ml: Their volume together; None where unknown.
        files: Names of files beside the page that belong to it; they become links.
        facts: Further facts, name and text.
        group: A heading above the first of the cases that share it, such as their source; empty for none.
    """

    prompts: Prompts
    picture: "Image | None" = None
    tracer: str = ""
    n_lesions: int | None = None
    volume_ml: float | None = None
    files: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = field(default=())
    group: str = ""


def write_page(path: str | Path, cases: Sequence[PageCase], *, title: str, intro: str = "", command: str = "") -> Path:
    """Write the page, complete or not at all.

    Pictures are embedded, so the file can be sent as it is. All text is escaped. A case with more than 200
    prompts shows the first 200 and says so.

    Args:
        path: The HTML file; replaced where it exists.
        cases: What to show, in this order; may be empty.
        title: Heading and window title.
        intro: One paragraph below the heading.
        command: The command that made it, where one did.
    """
    import jinja2

    from clicksim import __version__

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clicksim.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template("page.html.j2").render(
        title=title,
        intro=intro,
        command=command,
        version=__version__,
        cases=[_describe(case, number) for number, case in enumerate(cases, start=1)],
    )
    return _replace_text(Path(path), text)


def _describe(case: PageCase, number: int) -> dict[str, Any]:
    """What the template needs of one case, as plain values."""
    prompts = case.prompts
    rows = _rows(prompts)
    return {
        "anchor": f"case-{number}",
        "name": prompts.case_id or f"case {number}",
        "group": case.group,
        "picture": _data_uri(case.picture),
        "facts": [*_facts(case), *case.facts],
        "notes": prompts.notes,
        "files": case.files,
        "rows": rows[:MOST_ROWS],
        "left_out": max(0, len(rows) - MOST_ROWS),
        "has_mm": prompts.grid.affine is not None,
    }


def _facts(case: PageCase) -> list[tuple[str, str]]:
    """Name and text of what is known; nothing for what is not."""
    prompts, grid = case.prompts, case.prompts.grid
    ahead = sum(prompt.foreground for prompt in prompts)
    known: list[tuple[str, str | None]] = [
        ("tracer", case.tracer.upper() or None),
        ("shape", " x ".join(map(str, grid.shape))),
        ("spacing", None if grid.spacing is None else " x ".join(f"{s:.4g}" for s in grid.spacing) + " mm"),
        ("lesions", None if case.n_lesions is None else str(case.n_lesions)),
        ("lesion volume", None if case.volume_ml is None else f"{case.volume_ml:.1f} ml"),
        ("foreground", str(ahead)),
        ("background", str(len(prompts) - ahead)),
        ("protocol", prompts.protocol or None),
        ("seed", None if prompts.seed is None else str(prompts.seed)),
        ("annotator", prompts.annotator if prompts.annotator != "simulated" else None),
    ]
    return [(name, text) for name, text in known if text is not None]


def _rows(prompts: Prompts) -> list[dict[str, Any]]:
    """One row per prompt: its number in its polarity, its first voxel, that voxel in mm."""
    rows: list[dict[str, Any]] = []
    for foreground in (True, False):
        mine = [prompt for prompt in prompts if prompt.foreground == foreground]
        for order, prompt in enumerate(mine, start=1):
            voxel = prompt.voxels[0]
            mm = () if prompts.grid.affine is None else prompts.grid.to_mm([voxel])[0]
            rows.append(
                {
                    "polarity": "foreground" if foreground else "background",
                    "order": order,
                    "kind": kind_of(prompt),
                    "lesion": "" if prompt.lesion is None else prompt.lesion,
                    "voxel": voxel,
                    "mm": [f"{x:.1f}" for x in mm],
                }
            )
    return rows


def _data_uri(picture: "Image | None") -> dict[str, Any] | None:
    """A picture as the page embeds it, with its size, so that nothing moves while it loads."""
    if picture is None:
        return None
    from clicksim.report.mip import encode_picture

    data = base64.b64encode(encode_picture(picture, "webp")).decode()
    return {"source": f"data:image/webp;base64,{data}", "width": picture.width, "height": picture.height}


def _replace_text(target: Path, text: str) -> Path:
    """Write, and rename at the end."""
    with replacing(target) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return target
