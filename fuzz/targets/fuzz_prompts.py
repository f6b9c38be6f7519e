"""Prompt files, plain and Grand Challenge JSON."""

from pathlib import Path

from clicksim.errors import PromptFormatError
from clicksim.geometry import Grid
from clicksim.prompts.formats import dump_prompts
from clicksim.prompts.kinds import Click
from clicksim.prompts.prompt_files import read_prompts
from clicksim.prompts.records import Prompts

GRID = Grid((40, 30, 20), (2.0, 2.0, 3.0))


def seeds() -> list[bytes]:
    """Both formats, with and without prompts and indentation."""
    clicks = (Click((1, 2, 3), True), Click((39, 29, 19), True), Click((7, 8, 9), False))
    made = [Prompts(own, GRID, "case") for own in (clicks, ())]
    return [
        dump_prompts(prompts, name, indent=indent).encode()
        for prompts in made
        for name, indent in (("plain", None), ("grand-challenge", None), ("grand-challenge", 2))
    ]


def read(data: bytes, folder: Path) -> None:
    """Read it in earnest and with foreign names left out, and write what was read as both formats and as rows."""
    file = folder / "prompts.json"
    file.write_bytes(data)
    try:
        read_prompts(file, GRID, case_id="case")
    except PromptFormatError:
        read_prompts(file, GRID, case_id="case", strict=False)
        raise
    prompts = read_prompts(file, GRID, case_id="case", strict=False)
    for name in ("plain", "grand-challenge"):
        dump_prompts(prompts, name).encode()
    assert prompts.to_table().num_rows == len(prompts)
