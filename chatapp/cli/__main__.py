"""`python -m chatapp.cli`, for where the script is not installed."""

from chatapp.cli import main

main(prog_name="chatapp")
