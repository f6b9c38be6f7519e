"""Run `python -m clickseg`; `torchrun -m clickseg` needs this file."""

from clickseg.cli import main

main(prog_name="clickseg")
