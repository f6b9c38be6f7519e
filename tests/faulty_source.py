"""A source whose patients do to their process what a test asks for; light, since each worker imports it."""

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from clicksim.catalog import Context, Outcome, Source, Unit


def plan_patients(context: Context) -> tuple[list[Unit], Outcome]:
    """Six patients, each with a file of its own, there or not."""
    return [Unit(f"p{n:02d}", n, (context.source / f"p{n:02d}",)) for n in range(6)], Outcome()


def convert_patient(context: Context, unit: Unit) -> Outcome:
    """A patient whose file in the source says what becomes of its process."""
    flag = context.source / unit.key
    action = flag.read_text() if flag.exists() else ""
    if action == "slow":
        (context.source / f"pid-{os.getpid()}").touch()
        time.sleep(60)
    if action == "holds":
        _hold_child(context.source)
    if action == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "memory":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.getrlimit(resource.RLIMIT_AS)[1]))
        bytearray(1 << 30)
    outcome = Outcome()
    outcome.cases.append({"case_id": unit.key, "patient_key": unit.key})
    return outcome


def _hold_child(folder: Path) -> None:
    """Wait for a child process, with a temporary file, as a predictor does."""
    with tempfile.TemporaryDirectory() as temporary:
        (Path(temporary) / "image").write_text("of a patient")
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
        try:
            (folder / f"pid-{os.getpid()}").touch()
            (folder / f"child-{child.pid}").touch()
            child.wait()
        finally:
            child.kill()
            child.wait()


PATIENTS = Source("patients", "Patients", "any folder", plan_patients, convert_patient, {"licence": "none"})
