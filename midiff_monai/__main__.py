"""Lets `python -m midiff_monai` do what the `midiff` command does."""

from __future__ import annotations

import sys

from midiff_monai.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
