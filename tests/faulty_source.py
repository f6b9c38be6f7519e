"""A source whose patients do to their process what the tests of faults ask for; light, as each worker imports it."""

import os
import resource
import signal
import time
from pathlib import Path

from clicksim.catalog import Outcome, Source, Unit


def plan_patients(context):
    return [Unit(f"p{n:02d}", n) for n in range(6)], Outcome()


def convert_patient(context, unit):
    """A patient whose file in the source says what becomes of its process."""
    flag = context.source / unit.key
    action = flag.read_text() if flag.exists() else ""
    if action == "slow":
        (context.source / f"pid-{os.getpid()}").touch()
        time.sleep(60)
    if action == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "memory":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.getrlimit(resource.RLIMIT_AS)[1]))
        bytearray(1 << 30)
    outcome = Outcome()
    outcome.cases.append({"case_id": unit.key, "patient_key": unit.key})
    return outcome


PATIENTS = Source("patients", "Patients", "any folder", plan_patients, convert_patient, {"licence": "none"})
