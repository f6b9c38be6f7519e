"""What an installed clicksim must do, by the standard library and clicksim alone: run by `make wheel`.

It stands in a folder of its own, away from the checkout, beside the golden vectors. So it shows that the distribution
holds all its files, and that its dependencies, oldest or newest, give the same prompts.
"""

import json
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import distribution, version
from importlib.util import find_spec
from pathlib import Path

import clicksim
from tests import golden, golden_scribbles

SHOWN = ("numpy", "scipy", "numba", "pyarrow", "nibabel", "SimpleITK", "edt", "click")


def main() -> None:
    """Everything, in the folder of this file."""
    python = ".".join(map(str, sys.version_info[:3]))
    print(f"clicksim {clicksim.__version__}, Python {python}: {', '.join(f'{n} {version(n)}' for n in SHOWN)}")
    check_files()
    check_vectors()
    run_commands()
    print("everything works")


def check_files() -> None:
    """The package comes from the environment, and each file of its list is there."""
    home = Path(clicksim.__file__).resolve()
    if not home.is_relative_to(Path(sys.prefix).resolve()):
        raise SystemExit(f"clicksim was imported from {home}, which is not in {sys.prefix}")
    listed = distribution("clicksim").files or []
    lost = [str(file) for file in listed if not Path(file.locate()).is_file()]
    if lost or not listed:
        raise SystemExit(f"of {len(listed)} files these are missing: {', '.join(lost)}")
    print(f"{len(listed)} files are there")


def check_vectors() -> None:
    """Golden vectors of clicks and scribbles come out as stored."""
    for suite in (golden, golden_scribbles):
        for name in suite.CASES:
            if suite.vectors(name) != json.loads((suite.FOLDER / f"{name}.json").read_text(encoding="utf-8")):
                raise SystemExit(f"{suite.__name__}: {name} differs from its golden vectors")
    print("golden vectors are met")


def run_commands() -> None:
    """The commands of a first day, on phantoms; those of an extra only where it is installed."""
    dicom, sql, torch = (find_spec(name) is not None for name in ("highdicom", "duckdb", "torch"))
    for line in ("--help", "--version", "convert --list", "protocols autopet-iv@1", "protocols ritm"):
        run("clicksim", line)
    run("clicksim", "demo --out demo --patients 1")
    if dicom and not Path("demo/catalog/cases/source=tcia_fdg").is_dir():
        raise SystemExit("the demo left DICOM out although highdicom is here")
    label = sorted(Path("demo/sources/fdat/labelsTr").iterdir())[0]
    case, clicks = shlex.quote(str(label)), f"demo/clicks/{label.name.removesuffix('.nii.gz')}_clicks.json"
    for line in (
        "catalog check demo/catalog --read-data",
        "catalog summary demo/catalog",
        "catalog audit demo/catalog --out audit.html",
        "convert fdat demo/sources/fdat second --workers 2",
        "clicks --catalog second --protocol autopet-iv@1 --out published",
        "catalog import-prompts second published --run published --protocol autopet-iv@1",
        "verify second --against published",
        f"scribbles --label {case} --preview scribbles.png",
        f"score --label {case} --prediction {case} --json",
        f"encode --prompts {shlex.quote(clicks)} --like {case} --out guided",
        "manifest nnunet second Dataset001_Smoke",
        "manifest croissant second croissant",
    ):
        run("clicksim", line)
    if sql:
        run("clicksim", "catalog query demo/catalog 'select count(*) from cases'")
    if torch:
        run("clickseg", "prepare second store")


def run(program: str, line: str) -> None:
    """One command of this environment, which must end well; what it said is shown where it does not."""
    found = shutil.which(program, path=str(Path(sys.executable).parent))
    told = subprocess.run([str(found), *shlex.split(line)], capture_output=True, text=True, check=False)
    if told.returncode:
        raise SystemExit(f"{program} {line}: exit code {told.returncode}\n{told.stdout}{told.stderr}")
    print(f"{program} {line}", flush=True)


if __name__ == "__main__":
    main()
