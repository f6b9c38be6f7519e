"""`python -m clicksim`."""

from clicksim.cli import main

main(prog_name="clicksim")
