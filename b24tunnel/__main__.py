"""The `b24tunnel` command, also as `python -m b24tunnel`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from b24tunnel.cli import cli


def main() -> None:
    """Run the command line; what a terminal cannot show is escaped rather than a failure."""
    # Under a supervisor some may be closed; a file or socket of ours must not get their numbers.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115  # it stays open
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    cli(prog_name="b24tunnel")


if __name__ == "__main__":
    main()
