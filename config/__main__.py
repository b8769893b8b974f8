"""`python -m config`: the former name of `python -m ops check` and `python -m ops show`."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from ops.former import run

    sys.exit(run("config"))
