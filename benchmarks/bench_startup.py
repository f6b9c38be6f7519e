"""How long a user waits for a command: fresh processes, from start to exit."""

import os
import sys
import tempfile
from pathlib import Path

from benchmarks.bench_data import SHAPE_TINY, phantom, show_shape
from benchmarks.result_table import Section, at_most, within
from benchmarks.timing import time_process
from clicksim.volumes import write_image

TEXT = """Fresh processes on a case of {shape} voxels. "first ever" starts with an empty `NUMBA_CACHE_DIR` and compiles.
"second" uses the compiled code from there."""


def run(*, full: bool, quick: bool) -> list[Section]:  # noqa: ARG001
    rounds = 1 if quick else 5
    command = [sys.executable, "-c", "from clicksim.cli import main; main()"]
    bare = time_process([sys.executable, "-c", "pass"], rounds=rounds)
    imports = time_process([sys.executable, "-c", "import numba, nibabel, isal.igzip"], rounds=rounds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case = phantom(1, quick=True, n_lesions=3)
        write_image(folder / "case.nii.gz", case.label, case.grid)
        write_image(folder / "case_0001.nii.gz", case.pet, case.grid)
        files = ["--label", str(folder / "case.nii.gz"), "--pet", str(folder / "case_0001.nii.gz")]
        env = os.environ | {"NUMBA_CACHE_DIR": str(folder / "cache")}
        help_time = time_process([*command, "--help"], rounds=rounds)
        cold = time_process([*command, "clicks", *files], rounds=1, env=env)
        warm = time_process([*command, "clicks", *files], rounds=rounds, env=env)
    rows = [
        within("`clicksim --help`", help_time, "`python -c pass`", bare, bar_s=0.4),
        at_most("`clicksim clicks`, first ever", cold, "importing numba and nibabel", imports),
        at_most("`clicksim clicks`, second", warm, "importing numba and nibabel", imports),
    ]
    return [Section("Start-up", TEXT.format(shape=show_shape(SHAPE_TINY)), rows=rows)]
