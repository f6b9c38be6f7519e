"""Crash tests: every job of clicksim, stopped at each of its file operations in turn.

    shim.c        counts file operations below one folder, in all processes, and stops one of them
    preload.py    builds the shim and tells it what to do
    declared.py   the jobs, as data, and the trees that they begin from
    forked.py     one command in a forked copy of a warm process
    durable.py    what a disk still holds after a power cut
    verdict.py    what must be true after a crash
    points.py     the points of a job in each mode, and one point played to its end
    __main__.py   `python -m tests.crash`: all points, in as many processes as there are cores

A point is a job, a mode and the number of a file operation. What a mode does, and what must hold after it, is said in
`points.py` and `verdict.py`. Linux only; without a C compiler nothing runs, and the tests say so.
"""
