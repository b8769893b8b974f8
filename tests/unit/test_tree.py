"""Files of the repository that cannot be written."""

from __future__ import annotations

import errno

import pytest

from config.tree import why_not_written
from ops.gitops import command as gitops
from ops.render import command as render

READ_ONLY = OSError(errno.EROFS, "Read-only file system", "ops/render/charts/traefik.keys.json")


@pytest.mark.parametrize(
    ("command", "arguments"),
    [(render, ["renew"]), (gitops, ["write", "Pulumi.prod.yaml"])],
    ids=["render", "gitops"],
)
def test_a_read_only_repository_is_told_in_one_sentence(
    command: object,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object) -> None:
        raise READ_ONLY

    monkeypatch.setattr(command, "_run" if command is render else "write", refuse)
    assert getattr(command, "main")(arguments) == 1  # noqa: B009 two modules of one shape
    assert capsys.readouterr().err.startswith(
        "ops/render/charts/traefik.keys.json: not written: in a world"
    )


def test_another_error_of_the_disk_stays_what_it_is() -> None:
    with pytest.raises(OSError, match="No space left"):
        why_not_written(OSError(errno.ENOSPC, "No space left on device", "x"))
