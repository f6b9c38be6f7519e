"""Files that are complete or not there at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clicksim.files import clear_abandoned, replacing, write_text

KILLED = """
import os, signal, sys
from pathlib import Path
from clicksim.files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="no process can be asked whether it lives")
@pytest.mark.parametrize("name", ["page.html", "[a] b*.csv", "-"])
def test_clear_abandoned__deletes_what_a_killed_process_left_of_this_file_alone(tmp_path: Path, name: str) -> None:
    for victim in (name, f"other-{name}"):
        subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / victim)], check=False)
    assert len(names(tmp_path)) == 2
    (tmp_path / f".writing-notes-{name}").write_text("mine")
    with replacing(tmp_path / name) as temporary:
        temporary.write_text("half")
        before = names(tmp_path)
        clear_abandoned(tmp_path / name)
        left = names(tmp_path)
        assert temporary.exists(), "a living process is writing it"
    assert len(before) == len(left) + 1
    assert sum(file.startswith(".writing-") for file in names(tmp_path)) == 2


def test_write_text__keeps_line_ends_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "one\r\ntwo\n")
    assert (tmp_path / "a.txt").read_bytes() == b"one\r\ntwo\n"
    assert names(tmp_path) == ["a.txt"]
