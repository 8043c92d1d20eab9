"""`python -m icmjax`: the command line."""

from icmjax.cli import main

main(prog_name="icmjax")
