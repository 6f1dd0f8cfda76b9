"""`python -m packhorse`: the same as the `packhorse` command."""

from __future__ import annotations

from packhorse.cli import main

if __name__ == "__main__":
    main()
