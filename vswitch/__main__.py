"""``python -m vswitch`` is the command line."""

from vswitch.cli import main

main()
