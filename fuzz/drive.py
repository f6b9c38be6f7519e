"""One target under atheris: `python -m fuzz.drive TARGET FOLDER FLAG...`, started by `fuzz.campaign`.

A fault does not end the run: its input is kept in `FOLDER/findings`, once for each name of a fault. What takes too long
or too much memory, and what kills the process, ends it, and libFuzzer keeps the input there.
"""

import contextlib
import hashlib
import os
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import atheris

from fuzz.targets import Target, find_target

INSTRUMENTED = ["clicksim", "converters", "nibabel", "pydicom", "tomllib", "csv", "json"]
UNINSTRUMENTED = [
    "clicksim.kernels",  # Numba compiles the bytecode and knows none of what is added
    "clicksim.phantom",  # makes the seeds
    "pydicom._dicom_dict",  # these are data, and take the longest
    "pydicom._private_dict",
    "pydicom._uid_dict",
    "pydicom.sr",
]
ADDRESS_SPACE = 8 << 30
"""Bytes: the last defence of the machine, far above what libFuzzer stops at."""


def main() -> None:
    """Fuzz until the flags say that it is over."""
    name, home = sys.argv[1], Path(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    for folder in ("corpus", "findings"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    with atheris.instrument_imports(include=INSTRUMENTED, exclude=UNINSTRUMENTED):
        target = find_target(name)
        # readers import heavy packages inside functions: a first reading makes them do so here
        test_one = _tester(target, home / "findings")
        for seed in target.seeds():
            (home / "corpus" / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
            test_one(seed)
    dictionary = home / "words.txt"
    dictionary.write_text("".join(f'"{word}"\n' for word in _words(target)), encoding="ascii")
    flags = [*sys.argv[3:], f"-dict={dictionary}", f"-artifact_prefix={home / 'findings'}{os.sep}"]
    mutator = {"custom_mutator": _inside(target)} if target.unpack else {}
    atheris.Setup([sys.argv[0], *flags, str(home / "corpus")], test_one, **mutator)
    atheris.Fuzz()


def _tester(target: Target, findings: Path) -> Callable[[bytes], None]:
    from fuzz.contract import name_fault, read_input

    def test_one(data: bytes) -> None:
        try:
            read_input(target, data)
        except Exception as error:
            file = findings / f"fault-{hashlib.sha256(name_fault(error).encode()).hexdigest()[:12]}"
            if not file.exists():
                file.write_bytes(data)

    return test_one


def _words(target: Target) -> list[str]:
    """The words of the seeds, and some that readers of numbers and lists stumble over."""
    found = {word.decode() for seed in target.seeds() for word in re.findall(rb"[A-Za-z_]{3,40}", seed)}
    return [*sorted(found), "1e999", "-1", "nan", "inf", "[[", "{}", "\\xff", "\\xef\\xbb\\xbf", "\\\\ud800"]


def _inside(target: Target) -> Callable[[bytes, int, int], bytes]:
    """Mutate what is inside a packed input, and one time in four the packed bytes themselves."""

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        if seed % 4 == 0 or target.unpack is None or target.pack is None:
            return atheris.Mutate(data, max_size)
        inner = target.unpack(data)
        with contextlib.suppress(ValueError):
            return target.pack(atheris.Mutate(inner, max(2 * len(inner), 64)))[:max_size]
        return data

    return mutate


if __name__ == "__main__":
    main()
