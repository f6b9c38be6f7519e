"""`python -m clickseg`, which is what `torchrun -m clickseg` needs."""

from clickseg.cli import main

main(prog_name="clickseg")
