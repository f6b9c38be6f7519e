"""Check what a source promises, on trees that a package can write."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

from clicksim.catalog import Source, find_source, open_catalog
from clicksim.catalog.schema import REASONS
from clicksim.errors import CatalogError, ClicksimError
from clicksim.pipeline.conversion import convert
from clicksim.pipeline.workers import Crew
from clicksim.testing.damaged_trees import assert_same, contents, damages, promise, tree_files

WriteTree = Callable[[Path], object]


class _Stop(BaseException):
    """Ends a job after its first unit, as a kill would."""


def check_source(source: str | Source, write_tree: WriteTree, folder: Path, *, most_damages: int = 60) -> None:
    """Try everything that a source promises.

    - A folder of another kind is refused with its name, and nothing is written.
    - Everything found is a case or a rejection, `clicksim catalog check` finds no fault, and each path of a case
      can be read.
    - The bytes are the same in this process, in worker processes, when it is run again, and when it is interrupted
      and resumed.
    - A damaged, missing or empty file costs at most the cases that need it: it ends in a rejection, or in a
      `ClicksimError` with a message, never in another exception.

    Args:
        source: The source, or the name of its entry point.
        write_tree: Writes a small valid tree of the publisher's layout into an existing folder; with at least two
            patients, so that one can be done before the interruption and one after it.
        folder: A folder to work in.
        most_damages: How many damaged trees are tried; they are spread over all files.

    Raises:
        AssertionError: A promise is broken.
    """
    chosen = find_source(source) if isinstance(source, str) else source
    _can_be_sent(chosen)
    tree = folder / "tree"
    tree.mkdir(parents=True)
    write_tree(tree)
    _refuses_other_folders(chosen, folder)
    _converts(chosen, tree, folder / "sound")
    _is_complete(chosen, folder / "sound")
    sound = contents(folder / "sound")
    convert(chosen, tree, folder / "sound")
    assert_same(sound, contents(folder / "sound"), "converted a second time")
    convert(chosen, tree, folder / "workers", crew=Crew(workers=2))
    assert_same(sound, contents(folder / "workers"), "converted by two workers")
    _resumes(chosen, tree, folder / "resumed", sound)
    _survives_damage(chosen, tree, folder, most_damages)


def _can_be_sent(source: Source) -> None:
    try:
        pickle.dumps(source.convert)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        told = "`convert` cannot be sent to a worker; define it at the top level of a module"
        raise AssertionError(f"{told} ({error})") from error


def _refuses_other_folders(source: Source, folder: Path) -> None:
    other = folder / "other"
    (other / "holiday").mkdir(parents=True)
    (other / "holiday" / "letter.txt").write_text("Dear all", encoding="utf-8")
    try:
        convert(source, other, folder / "nothing")
    except CatalogError as error:
        promise(str(other) in str(error), f"the refusal of a wrong folder does not name it: {error}")
    else:
        raise AssertionError("a folder of another kind is not refused; let `plan` raise CatalogError")
    promise(not (folder / "nothing").exists(), "a catalog was made before `plan` refused the folder")


def _converts(source: Source, tree: Path, catalog: Path) -> None:
    try:
        convert(source, tree, catalog)
    except Exception as error:
        raise AssertionError(f"the valid tree does not convert: {type(error).__name__}: {error}") from error


def _is_complete(source: Source, catalog: Path) -> None:
    from clicksim.audit import check_catalog

    opened = open_catalog(catalog)
    rows = opened.table("cases", source.name).to_pylist()
    rejected = opened.rejected.to_pylist()
    why = f"; the first rejection is {rejected[0]['code']}: {rejected[0]['message']}" if rejected else ""
    promise(len({row["patient_key"] for row in rows}) > 1, f"the tree needs at least two patients that convert{why}")
    for row in rows:
        for column in (name for name in row if name.endswith("_path") and row[name] is not None):
            promise(opened.resolve(row[column]).is_file(), f"{column} of case {row['case_id']} is not a file")
    unknown = sorted({row["code"] for row in opened.rejected.to_pylist()} - set(REASONS))
    promise(not unknown, f"rejections have codes that are not in REASONS: {', '.join(unknown)}")
    for finding in check_catalog(opened):
        raise AssertionError(f"clicksim catalog check finds: {finding}")


def _resumes(source: Source, tree: Path, catalog: Path, sound: dict[str, str]) -> None:
    def stop(done: int, total: int, refused: int = 0) -> None:  # noqa: ARG001 - what progress is called with
        raise _Stop

    try:
        convert(source, tree, catalog, crew=Crew(progress=stop))
    except _Stop:
        pass
    else:
        raise AssertionError("the source plans no unit")
    convert(source, tree, catalog, resume=True)
    assert_same(sound, contents(catalog), "interrupted after the first patient and resumed")


def _survives_damage(source: Source, tree: Path, folder: Path, most: int) -> None:
    names = [file.relative_to(tree).as_posix() for file in tree_files(tree)]
    chosen = [(name, how) for name in names for how in damages()]
    step = max(1, -(-len(chosen) // most))
    for number, (name, how) in enumerate(chosen[::step]):
        spoiled, catalog = folder / f"spoiled-{number}", folder / f"spoiled-{number}-catalog"
        shutil.copytree(tree, spoiled)
        damages()[how](spoiled / name)
        try:
            convert(source, spoiled, catalog)
        except ClicksimError as error:
            promise(str(error).strip(), f"{name} {how}: an error without a message")
        except Exception as error:
            raise AssertionError(f"{name} {how}: {type(error).__name__}: {error}; reject the case instead") from error
        shutil.rmtree(spoiled)
        shutil.rmtree(catalog, ignore_errors=True)
