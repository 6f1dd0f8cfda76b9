"""The command line. Only this package reads argv, the environment and signals.

Commands parse, call and answer; what they call lives in the layers below. `main` is the entry point of the
`packhorse` script: 0 is done, 1 a run-time or store error, 2 a mistake in what was asked.
"""

from __future__ import annotations

import io
import os
import sys

from packhorse.cli.root import root

__all__ = ["main", "root"]


def main() -> None:
    """Run the command that argv asks for and exit."""
    _mend_streams()
    root.main(prog_name="packhorse")


def _mend_streams() -> None:
    """Give closed standard streams a place, or a connection gets their number and with it what is printed."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the terminal's encoding lacks must not end the command half way.
            stream.reconfigure(errors="backslashreplace")
