"""Read and write prompt files."""

from pathlib import Path

from clicksim.errors import PromptFormatError
from clicksim.files import read_bounded
from clicksim.geometry import Grid
from clicksim.prompts.formats import dump_prompts, replacing_prompts
from clicksim.prompts.records import Prompts


def read_prompts(path: str | Path, grid: Grid, *, case_id: str = "", strict: bool = True) -> Prompts:
    """Read a prompt file; see `Prompts.from_json`. A byte order mark is skipped.

    Raises:
        PromptFormatError: If the file is missing or not UTF-8; otherwise see `Prompts.from_json`.
    """
    return Prompts.from_json(_read(Path(path)), grid, case_id=case_id, where=str(path), strict=strict)


def write_prompts(
    path: str | Path,
    prompts: Prompts,
    format: str = "plain",  # noqa: A002 - the field calls it format
    *,
    indent: int | None = None,
) -> None:
    """Write a prompt file atomically; see `dump_prompts`. An existing file is replaced.

    Raises:
        SettingError, PromptFormatError: See `dump_prompts`.
        PromptFormatError, ClicksimError, StorageError: See `replacing_prompts`.
    """
    text = dump_prompts(prompts, format, indent=indent)
    with replacing_prompts(Path(path)) as temporary:
        temporary.write_bytes(text.encode())


def _read(file: Path) -> str:
    try:
        return read_bounded(file).decode("utf-8-sig")
    except OSError as error:
        raise PromptFormatError(f"cannot read the prompts: {error.strerror} ({file})") from error
    except UnicodeDecodeError as error:
        raise PromptFormatError(f"not a JSON file: byte {error.start} is not UTF-8 ({file})") from error
