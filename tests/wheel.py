"""`make wheel`: builds sdist and wheel, and proves in fresh environments away from the checkout that they work.

    python -m tests.wheel [--python PYTHON] [--only NAME] [--out DIR]

newest   the wheel with what an installer takes today
oldest   the wheel with the lowest versions that pyproject.toml allows
sdist    the wheel that is built from the sdist

the first two once with the core alone and once with the extras but Torch, whose wheels are gigabytes, the last with the
core alone. In each environment `tests/smoke.py` runs. This needs a network and minutes.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("dicom", "sql", "cluster", "remote")
COMPILED = (
    "numpy",
    "scipy",
    "numba",
    "llvmlite",
    "pyarrow",
    "simpleitk",
    "edt",
    "isal",
    "pillow",
    "markupsafe",
    "duckdb",
)
"""Taken as wheels alone, so that a new Python gets the oldest version that has one."""


@dataclass(frozen=True)
class Check:
    """One environment: what is installed into it, with which versions of the dependencies."""

    name: str
    kind: str
    resolution: str
    extras: tuple[str, ...]


CHECKS = (
    Check("newest", "whl", "highest", EXTRAS),
    Check("newest-core", "whl", "highest", ()),
    Check("oldest", "whl", "lowest-direct", EXTRAS),
    Check("oldest-core", "whl", "lowest-direct", ()),
    Check("sdist", "tar.gz", "highest", ()),
)


def main(arguments: list[str] | None = None) -> None:
    """Build, install, run."""
    parser = argparse.ArgumentParser(prog="python -m tests.wheel", description=__doc__.split("\n")[0])
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the environments")
    parser.add_argument("--only", action="append", choices=[check.name for check in CHECKS], help="repeatable")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="where sdist and wheel go")
    given = parser.parse_args(arguments)
    for old in given.out.glob("clicksim-*"):
        old.unlink()
    call(sys.executable, "-m", "build", "--outdir", str(given.out), str(ROOT))
    for check in CHECKS:
        if check.name in (given.only or [check.name]):
            with tempfile.TemporaryDirectory(prefix=f"clicksim-{check.name}-") as folder:
                print(f"== {check.name}", flush=True)
                prove(check, given.out, given.python, Path(folder))


def prove(check: Check, dist: Path, python: str, folder: Path) -> None:
    """A fresh environment with one distribution, and the smoke script in it."""
    environment, pins = folder / "environment", folder / "pins.txt"
    uv(folder, "venv", "--python", python, str(environment))
    inside = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    extras = [f"--extra={name}" for name in check.extras]
    versions = ["--resolution", check.resolution, "--output-file", str(pins), *(f"--only-binary={n}" for n in COMPILED)]
    uv(folder, "pip", "compile", "--python", str(inside), *versions, *extras, str(ROOT / "pyproject.toml"))
    (file,) = dist.glob(f"clicksim-*.{check.kind}")
    wanted = f"clicksim[{','.join(check.extras)}] @ {file.resolve().as_uri()}"
    uv(folder, "pip", "install", "--python", str(inside), "--constraints", str(pins), wanted)
    for name in ("__init__.py", "golden", "golden_scribbles"):
        source, target = ROOT / "tests" / name, folder / "tests" / name
        target.parent.mkdir(exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    shutil.copy(ROOT / "tests" / "smoke.py", folder)
    call(str(inside), "smoke.py", cwd=folder)


def uv(folder: Path, *arguments: str) -> None:
    """uv, which alone resolves to the lowest versions."""
    call(sys.executable, "-m", "uv", "--quiet", *arguments, cwd=folder)


def call(*command: str, cwd: Path = ROOT) -> None:
    """A command that must end well; nothing of the checkout's environment reaches it."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    if subprocess.run(command, cwd=cwd, env=env, check=False).returncode:
        raise SystemExit(f"failed: {' '.join(command)}")


if __name__ == "__main__":
    main()
