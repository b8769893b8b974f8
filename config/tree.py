"""Files of the repository that the project's own commands write."""

from __future__ import annotations

import errno


def why_not_written(error: OSError) -> str:
    """Say why a file could not be written; raises the error where nothing better is known.

    In a world of the lab the repository is a read-only mount.
    """
    if error.errno != errno.EROFS:
        raise error
    return (
        f"{error.filename}: not written: in a world of the lab the repository is read-only; "
        "run this outside of it"
    )
