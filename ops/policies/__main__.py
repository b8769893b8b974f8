"""The policy pack's entry point: the engine's language host runs this folder."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # The host puts this folder on the path; the project, whose settings the rules know, is above.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from ops.policies.server import serve

    serve()
