"""Progress in a log: lines with rate and time left."""

import itertools

from clicksim.cli import progress as module
from clicksim.cli.progress import in_units, progress


def test_progress__of_a_count_that_begins_anew_says_so(capsys):
    with progress("patients") as report:  # as two protocols are played, one after the other
        for total in (3, 2):
            for done in range(1, total + 1):
                report(done, total)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["patients: 3 of 3", "patients: 2 of 2"]


def test_progress__counts_what_was_not_logged_too(capsys, monkeypatch):
    seconds = itertools.count()
    monkeypatch.setattr(module.time, "monotonic", lambda: next(seconds) // 3)  # each report asks three times at most
    with progress("steps") as report:
        for done in range(1, 101):
            report(done, 200)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "of 200" in line][-1:]
    rate = float(line.split(", ")[1].removesuffix("/s"))
    assert 1 <= rate <= 2


def test_in_units__shows_the_two_largest():
    shown = {0: "0 s", 59.4: "59 s", 59.6: "1 min 0 s", 3600: "1 h 0 min", 86_399: "23 h 59 min", 6_848_273: "79 d 6 h"}
    assert {seconds: in_units(seconds) for seconds in shown} == shown
