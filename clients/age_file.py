"""Files encrypted with age (https://age-encryption.org), and the key that opens them."""

from __future__ import annotations

import getpass
import stat
import sys
from pathlib import Path

import pyrage  # type: ignore[import-untyped]

ENCRYPTED = b"age-encryption.org/v1"


class AgeError(Exception):
    """A file cannot be opened with this key; the text says why, and never shows the key."""

    page = "docs/procedures/restore-backup.md"


def identities(path: Path) -> list[pyrage.x25519.Identity]:
    """Read a key file, as `age-keygen` writes it; one with a passphrase asks for it."""
    try:
        mode, content = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise AgeError(f"{path}: {error.strerror}; give the age key file with --identity") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise AgeError(f"{path}: others may read this key; `chmod 600 {path}`")
    if content.startswith(ENCRYPTED):
        content = _with_passphrase(path, content)
    lines = [one.strip() for one in content.decode(errors="replace").splitlines()]
    keys = [one for one in lines if one and not one.startswith("#")]
    try:
        found = [pyrage.x25519.Identity.from_str(one) for one in keys]
    except pyrage.IdentityError:
        found = []
    if not found:
        raise AgeError(f"{path}: holds no age key; `age-keygen` writes one (AGE-SECRET-KEY-1...)")
    return found


def _with_passphrase(path: Path, content: bytes) -> bytes:
    if not sys.stdin.isatty():
        raise AgeError(f"{path}: has a passphrase; run this in a terminal, which can ask for it")
    try:
        return bytes(pyrage.passphrase.decrypt(content, getpass.getpass(f"passphrase of {path}: ")))
    except pyrage.DecryptError:
        raise AgeError(f"{path}: the passphrase is not right") from None


def decrypt(encrypted: Path, plain: Path, keys: list[pyrage.x25519.Identity], name: str) -> None:
    """Decrypt into a file that only its owner can read; `name` is what messages call it."""
    plain.touch(mode=0o600)
    try:
        with encrypted.open("rb") as source, plain.open("wb") as target:
            pyrage.decrypt_io(source, target, keys)
    except (pyrage.DecryptError, OSError) as error:
        plain.unlink()
        if isinstance(error, OSError) and error.errno is not None:  # the disk's, not age's
            raise
        if "No matching keys" in str(error):
            public = ", ".join(str(one.to_public()) for one in keys)
            raise AgeError(
                f"{name}: not encrypted for this key ({public}); give the key whose public half "
                "was services.backup.agePublicKey when it was made"
            ) from None
        raise AgeError(
            f"{name}: damaged: age cannot decrypt it ({error}). Take another one: "
            "`python -m ops restore check` lists them"
        ) from None


def encrypt(plain: bytes, public_key: str) -> bytes:
    """Encrypt for a public key, as in services.backup.agePublicKey."""
    recipient = pyrage.x25519.Recipient.from_str(public_key)
    return bytes(pyrage.encrypt(plain, [recipient]))
