"""Configuration: the one place that prints a key or a value of somebody's file.

What is printed ends up in terminals, in logs and in the comments of a review. So it is cut to a
length, in ASCII without control characters, without a URL's user or query, and it never holds what
is or may be a secret.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
from collections import Counter

LENGTH = 80
"""Characters of a value that are printed."""
LINE = 600
"""Characters of a whole message."""

_SECRET_KEY = re.compile(
    r"(pass(word|wd|phrase)|token|secret|(private|secret|access|api|encryption)[-_]?key)s?$",
    re.IGNORECASE | re.ASCII,
)
_SECRET_VALUE = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY"  # PEM
    r"|PuTTY-User-Key-File"
    r"|(?i:AGE-SECRET-KEY-1|AGE-PLUGIN-)"  # age
    r"|\b(gh[opsur]_|github_pat_|gl(pat|dt|rt|soat|ptt)-)\w"  # GitHub, GitLab
    r"|\b(AKIA|ASIA)[0-9A-Z]{16}\b"  # S3 access keys
    r"|\beyJ[\w-]{6,}\.eyJ[\w-]{4,}\."  # JSON web tokens
    r"|\bhv[sbr]\.[\w-]{8}"  # Vault
    r"|\bxox[abeoprs]-\w|\bnpm_\w{20}|\bpypi-AgE|\bpul-[0-9a-f]{20}|\bdckr_pat_\w"
    r"|\bAIza[\w-]{30}|\bya29\.[\w-]{10}|\bSG\.[\w-]{16,}\.|\bsk-[\w-]{20}"
    r"|://[^/@\s]*:[^/@\s]+@"  # user and password in a URL
    r"|(?i:\bhttps?)://(?!git@)[^/@\s]+@",  # a token as the user of a URL
    re.ASCII,
)
_SECRET_WORD = re.compile(r"(?i)passw|passphrase|secret|token|credential|bearer", re.ASCII)
_PUBLIC = re.compile(r"age1[0-9a-z]{1,62}|ssh-ed25519 [A-Za-z0-9+/=]{1,80}", re.ASCII)
_RUN = re.compile(r"[A-Za-z0-9+/=_-]{16,}", re.ASCII)
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_$][\w./$-]{0,99}", re.ASCII)


@functools.lru_cache(maxsize=4096)  # each key is asked for again with every one below it
def names_secret(key: str) -> bool:
    """Say whether a key's name says that its value is a secret."""
    return _SECRET_KEY.search(key) is not None


def looks_secret(value: object) -> bool:
    """Say whether a text looks like a private key, a token or a URL with a password in it."""
    return isinstance(value, str) and _SECRET_VALUE.search(value) is not None


def may_be_secret(text: str) -> bool:
    """Say whether a text had better not be printed: it looks like a secret, or like chance."""
    # `dnsToken` is the name of a secret, `hunter2secret` may be one.
    if looks_secret(text) or (_SECRET_WORD.search(text) and not text.isalpha()):
        return True
    if _PUBLIC.fullmatch(text):
        return False
    return any(_is_random(run) for run in _RUN.findall(text))


def _is_random(run: str) -> bool:
    """Say whether a run of letters and digits is more like a key than like words."""
    if re.fullmatch(r"[0-9a-fA-F]{32,}", run) and len(set(run)) > 4:  # noqa: PLR2004 not 000...
        return True
    kinds = [
        "d" if one.isdigit() else "u" if one.isupper() else "l" if one.islower() else "-"
        for one in run
    ]
    switches = sum(1 for a, b in itertools.pairwise(kinds) if a != b and "-" not in (a, b))
    # Words change their kind rarely: esx01, rack12. Base64 does at every second character.
    mixed = {"d", "u", "l"} <= set(kinds) and len(run) >= 20  # noqa: PLR2004 shortest of tokens
    return (mixed and _entropy(run) > 3.2) or switches * 4 > len(run)  # noqa: PLR2004 bits


def _entropy(text: str) -> float:
    """Give the entropy of a text's characters, in bits a character."""
    shares = [count / len(text) for count in Counter(text).values()]
    return -sum(share * math.log2(share) for share in shares)


def escaped(text: str) -> str:
    r"""Write a text in ASCII without a control character: `\u001b` in place of an escape."""
    plain = json.dumps(text, ensure_ascii=True)[1:-1].replace("\x7f", "\\u007f")
    # What GitHub's runner takes for a command wherever in a line it stands.
    return plain.replace("##[", "#\\u0023[")


def value_text(value: object) -> str | None:
    """Write a value for people, as JSON; `None` for one that must not be shown."""
    if isinstance(value, bool | int | float):
        return _cut(json.dumps(value))
    text = str(value)
    if may_be_secret(text):
        return None
    if "://" in text:
        text = re.sub(r"://[^/@]*@", "://...@", text).split("?")[0]
    return '"' + _cut(escaped(text)) + '"'


def key_text(part: str) -> str:
    """Write one part of a key for people; a key that may be a secret is not shown."""
    if _hides_secret(part):
        return "(a key that is not shown)"
    if all(map(_PLAIN_KEY.fullmatch, part.split(":"))):
        return part
    return '"' + _cut(escaped(part)) + '"'


def _hides_secret(key: str) -> bool:
    # `githubClientSecret` is a key's name, `hunter2secret` may be the secret itself.
    worded = _SECRET_WORD.search(key) is not None and any(map(str.isdigit, key))
    return looks_secret(key) or worded or any(_is_random(run) for run in _RUN.findall(key))


def line_text(text: str) -> str:
    """Make a whole message one line of printable characters, and no command to a runner."""
    plain = escaped(text).replace('\\"', '"').replace("\\\\", "\\")
    if plain.lstrip().startswith("::"):
        plain = "\\" + plain.lstrip()
    return plain if len(plain) <= LINE else plain[:LINE] + "..."


def _cut(text: str) -> str:
    if len(text) <= LENGTH:
        return text
    return f"{text[:LENGTH]}... ({len(text)} characters)"
