"""Starts the demo from a checkout: `make demo`, or `python demo/app.py`, with the options of `mllmseg demo`."""

from __future__ import annotations

import sys

from mllmseg.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["demo"]
    main()
