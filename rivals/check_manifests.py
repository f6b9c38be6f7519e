"""Exports checked by the programs that read them, each in a separate environment.

    make rivals

The script converts phantoms, simulates clicks and exports them. nnU-Net checks its dataset with and without guidance
channels, MONAI reads the datalist, mlcroissant validates its file, and Hugging Face Datasets loads the folder. The
script writes the results to `docs/rivals.md`. It needs minutes and gigabytes, because nnU-Net and MONAI install Torch;
the test suite has its own checks instead. The environments stay in `.rivals`, or in the folder that CLICKSIM_RIVALS
names.
"""

import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from clicksim import __version__
from clicksim.catalog import find_source, open_catalog
from clicksim.catalog.folds import make_folds, write_folds
from clicksim.phantom.layouts import write_deep_psma, write_fdat
from clicksim.pipeline import PromptRun, convert, export, simulate_catalog

ROOT = Path(__file__).resolve().parents[1]
HOME = Path(os.environ.get("CLICKSIM_RIVALS", ROOT / ".rivals"))
PINS = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
TORCH = next(pin for pin in PINS if pin.startswith("torch=="))


@dataclass(frozen=True)
class Rival:
    """A program that reads an export.

    Attributes:
        name: Its name on the page.
        environment: The environment in which it is installed; several programs share one.
        package: The package whose version is reported.
        script: Runs with the environment's Python and takes the export as its argument.
        export: The folder of the export, below the work folder.
    """

    name: str
    environment: str
    package: str
    script: str
    export: str


ENVIRONMENTS = {"torch": ([TORCH], ["nnunetv2", "monai"]), "tables": ([], ["mlcroissant", "datasets", "nibabel"])}
RIVALS = (
    Rival("nnU-Net v2", "torch", "nnunetv2", "in_nnunet.py", "Dataset501_Phantom"),
    Rival("nnU-Net v2, with guidance channels", "torch", "nnunetv2", "in_nnunet.py", "Dataset502_Guided"),
    Rival("MONAI", "torch", "monai", "in_monai.py", "monai"),
    Rival("mlcroissant", "tables", "mlcroissant", "in_croissant.py", "croissant"),
    Rival("Hugging Face Datasets", "tables", "datasets", "in_datasets.py", "huggingface"),
)

EXPORTS: dict[str, tuple[str, dict[str, str]]] = {
    "Dataset501_Phantom": ("nnunet", {}),
    "Dataset502_Guided": ("nnunet", {"guidance": "gaussian"}),
    "monai": ("monai", {}),
    "croissant": ("croissant", {"url": "https://example.org/", "published": "2026-01-01"}),
    "huggingface": ("huggingface", {}),
}
"""The exports by folder: the format and its settings."""


def main() -> int:
    """Export, run all programs and write the page; returns the number of programs that refused."""
    with tempfile.TemporaryDirectory(prefix="clicksim-rivals-") as name:
        work = Path(name)
        cases = write_exports(work)
        rows = [(rival, *run_rival(rival, work)) for rival in RIVALS]
    write_rivals_page(rows, cases)
    return sum(not accepted for _, _, accepted, _ in rows)


def write_exports(work: Path) -> int:
    """Convert phantoms of two sources, simulate clicks, draw folds and export; returns the number of cases."""
    catalog_path = work / "catalog"
    for seed, (source, write) in enumerate((("fdat", write_fdat), ("deep-psma", write_deep_psma))):
        tree = write(work / source, seed=seed)
        convert(find_source(source), tree.folder, catalog_path)
    (run,) = simulate_catalog(catalog_path, [PromptRun("autopet-iv@2")])
    catalog = open_catalog(catalog_path)
    write_folds(catalog, "three", make_folds(catalog, n_folds=3, official="ignore"))
    for folder, (kind, settings) in EXPORTS.items():
        export(catalog_path, work / folder, kind, run=run, plan="three", settings=settings)
    return len(catalog.cases)


def run_rival(rival: Rival, work: Path) -> tuple[str, bool, str]:
    """The version of a program, whether it accepted the export, and its output."""
    python = environment(rival.environment)
    asked = f"from importlib.metadata import version; print(version({rival.package!r}))"
    version = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()
    command = [python, str(ROOT / "rivals" / rival.script), str(work / rival.export)]
    quiet = {**os.environ, "HF_HOME": str(work / "hf"), "HF_HUB_OFFLINE": "1", "nnUNet_raw": str(work)}
    done = subprocess.run(command, capture_output=True, text=True, env=quiet, cwd=work, check=False)
    said = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    print(f"{rival.name} {version}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}", file=sys.stderr)
    last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
    return version, done.returncode == 0 and bool(said), said[0] if said else last


def environment(name: str) -> str:
    """The Python of an environment, created on first use. Torch is installed first, so that nothing replaces it."""
    python = HOME / name / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(HOME / name)], check=True)
        pinned, packages = ENVIRONMENTS[name]
        constraint = HOME / name / "constraints.txt"
        constraint.write_text("\n".join(pinned) + "\n")
        for wanted in (pinned, packages):
            if wanted:
                install = [str(python), "-m", "pip", "install", "--quiet", "-c", str(constraint), *wanted]
                subprocess.run(install, check=True)
    return str(python)


def write_rivals_page(rows: list[tuple[Rival, str, bool, str]], cases: int) -> None:
    """Write the page."""
    lines = [
        "# Exports, checked by other programs",
        "",
        f"Written by `make rivals` with clicksim {__version__} on {platform.system()} {platform.machine()}, Python "
        f"{platform.python_version()}. The exports contain {cases} phantoms of two sources, with clicks of "
        "`autopet-iv@2` and a plan of three folds.",
        "",
        "| program | version | accepted | output |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| {r.name} | {version} | {'yes' if ok else 'no'} | {said} |" for r, version, ok, said in rows]
    (ROOT / "docs" / "rivals.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
