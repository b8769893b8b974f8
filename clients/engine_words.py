"""The words of the engine and of providers, before this project passes them on.

Some advise to take resources out of the state. That repairs nothing here: the machine or the
release lives on, unknown, and the next `up` would make it a second time.
"""

from __future__ import annotations

import re

INSTEAD = (
    "(It advises to change the state by hand: do not. "
    'docs/operations.md, "Never take a resource out of the state".)'
)
SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<!:)\n")
"""Where one ends. A line that ends with a colon goes on."""
HARMFUL = re.compile(
    r"delete_?unreachable"  # pulumi-kubernetes
    r"|pulumi state (?:delete|edit|move|repair|rename|unprotect)"
    r"|pulumi stack (?:import|rm)"
    r"|--clear-pending-creates|using `pulumi refresh`|`pulumi refresh` will need"
    r"|(?:delet|drop|edit|remov)\w*\b[^\n]{0,60}\b(?:the|your|from|pulumi) state\b",
    re.IGNORECASE,
)


def without_harmful_advice(text: str) -> str:
    """Leave out every sentence that advises to take something out of the state, and say so."""
    kept: list[str] = []
    end = 0
    found = False
    for mark in (*SENTENCE.finditer(text), None):
        sentence = text[end : mark.start() if mark else len(text)]
        separator = mark[0] if mark else ""
        end = mark.end() if mark else len(text)
        if HARMFUL.search(sentence):
            if not found:
                kept.append(INSTEAD + separator)
            found = True
        else:
            kept.append(sentence + separator)
    return "".join(kept).rstrip() if found else text
