"""The build context of a container image: everything that `docker build` needs, in one folder.

    OUT/Dockerfile          runs as a normal user, on a read-only root, without network
    OUT/requirements.txt    the versions that are installed here
    OUT/clicksim clickseg   the sources
    OUT/model.safetensors
    OUT/licences/           of the project, of installed packages, LGPL-3.0 and GPL-3.0 (for edt), and of the data

This module does not build the image: that needs a container engine and a network.
"""

import re
import shutil
import sys
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any

import clickseg
import clicksim
from clickseg.model.checkpoint import read_about
from clicksim.errors import ClicksimError

TAG = "clickseg"
EXTRA = "torch"
LEFT_OUT = ("__pycache__", "*.pyc", "*.nbi", "*.nbc")
LICENCE = re.compile(r"(^|/)(licen[cs]es?|copying|notice)[^/]*(/|$)", re.IGNORECASE)
LGPL = ("edt",)


def write_context(model: Path, out: Path) -> Path:
    """Write the build context of a model.

    Args:
        model: A checkpoint.
        out: A new or empty folder.

    Returns:
        `out`.

    Raises:
        CheckpointError: `model` is not a checkpoint.
        ClicksimError: The folder is not empty or cannot be written, or the project is not installed, so that its
            dependencies are unknown.
    """
    about = read_about(model)
    pins = pinned()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ClicksimError(f"{out} already exists; name a new folder for the build context")
    try:
        (out / "licences").mkdir(parents=True)
        (out / "Dockerfile").write_text(dockerfile(), encoding="utf-8")
        (out / "requirements.txt").write_text("".join(f"{name}=={pins[name]}\n" for name in pins), encoding="utf-8")
        for package in (clicksim, clickseg):
            place = Path(str(package.__file__)).parent
            shutil.copytree(place, out / place.name, ignore=shutil.ignore_patterns(*LEFT_OUT))
        shutil.copyfile(model, out / "model.safetensors")
        write_licences(out / "licences", pins, about)
    except OSError as error:
        raise ClicksimError(f"cannot write the build context to {out}: {error.strerror or error}") from error
    return out


def dockerfile() -> str:
    """Return the Dockerfile, for the version of Python that runs here."""
    from jinja2 import Environment, StrictUndefined

    text = files("clickseg.container").joinpath("templates", "Dockerfile.j2").read_text(encoding="utf-8")
    template = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False).from_string(text)
    return template.render(tag=TAG, python=f"{sys.version_info.major}.{sys.version_info.minor}")


def pinned() -> dict[str, str]:
    """Return name and installed version of each distribution that the project requires.

    Raises:
        ClicksimError: The project or one of its requirements is not installed.
    """
    try:
        wanted = metadata.requires("clicksim") or []
    except metadata.PackageNotFoundError as error:
        raise ClicksimError("clicksim is not installed, so its dependencies are unknown; install it first") from error
    found = {}
    for line in wanted:
        name, marker = re.split(r"[^A-Za-z0-9_.-]", line, maxsplit=1)[0], line.partition(";")[2]
        if "extra" in marker and f'"{EXTRA}"' not in marker.replace("'", '"'):
            continue
        try:
            found[name] = metadata.version(name).partition("+")[0]  # +cpu and the like exist on one index only
        except metadata.PackageNotFoundError as error:
            raise ClicksimError(f"{name} is not installed; pip install 'clicksim[torch]'") from error
    return dict(sorted(found.items()))


def write_licences(folder: Path, pins: dict[str, str], about: dict[str, Any]) -> None:
    """Write the licences of the project, of its packages and of the LGPL, and a page that lists them."""
    for name in ("LGPL-3.0.txt", "GPL-3.0.txt"):
        text = files("clickseg.container").joinpath("templates", "licences", name).read_text(encoding="utf-8")
        (folder / name).write_text(text, encoding="utf-8")
    lines = [
        "# The parts of this image and their licences",
        "",
        "| part | version | licence | texts |",
        "|---|---|---|---|",
    ]
    for name, version in {"clicksim": clicksim.__version__, **pins}.items():
        copied = _copy_texts(name, folder / name)
        if name in LGPL:
            copied = ["LGPL-3.0.txt", "GPL-3.0.txt", *copied]
        lines.append(f"| {name} | {version} | {_licence_of(name)} | {', '.join(copied) or 'none with it'} |")
    lines += [
        "",
        f"{', '.join(LGPL)}: unchanged, from its publisher's package, installed by pip; it can be replaced by "
        "another version in the same way. Sources: https://pypi.org/project/edt/#files",
        "",
        "## Data that the model was trained on",
        "",
        "| source | release | licence | citation |",
        "|---|---|---|---|",
    ]
    for row in about.get("sources", []):
        lines.append(
            "| " + " | ".join(_cell(row.get(key)) for key in ("source", "release", "licence", "citation")) + " |"
        )
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _copy_texts(name: str, folder: Path) -> list[str]:
    """Copy the licence texts of a distribution; return their names."""
    copied = []
    for file in metadata.files(name) or []:
        source = Path(str(file.locate()))
        if ".dist-info/" in str(file) and LICENCE.search(str(file).partition(".dist-info/")[2]) and source.is_file():
            folder.mkdir(exist_ok=True)
            shutil.copyfile(source, folder / source.name)
            copied.append(f"{name}/{source.name}")
    return sorted(set(copied))


def _cell(value: Any) -> str:
    """Return a table cell: on one line, without `|`."""
    return " ".join(str(value or "").split()).replace("|", "/")


def _licence_of(name: str) -> str:
    """Return the licence that a distribution declares, on one line."""
    about: Any = metadata.metadata(name)
    for key in ("License-Expression", "License"):
        if about.get(key):
            return _cell(about[key])[:80]
    classifiers = [c.rpartition("::")[2].strip() for c in about.get_all("Classifier", []) if c.startswith("License")]
    return ", ".join(classifiers) or "see its texts"
