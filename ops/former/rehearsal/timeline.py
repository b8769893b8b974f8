"""`python -m rehearsal.timeline`: a former name."""

import sys

if __name__ == "__main__":
    from ops.former import run

    sys.exit(run("rehearsal.timeline"))
