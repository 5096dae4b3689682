"""The `b24tunnel` command, also as `python -m b24tunnel`."""

from __future__ import annotations

import sys

from b24tunnel.cli import cli


def main() -> None:
    """Run the command line; what a terminal cannot show is escaped rather than a failure."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    cli(prog_name="b24tunnel")


if __name__ == "__main__":
    main()
