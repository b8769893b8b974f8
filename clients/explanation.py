"""What the words of vCenter, of the image factory and of networks mean for the settings.

Pure: a provider's or a library's error in, a problem of a setting out, with the words that it was
made from. The words are those of Go's crypto/x509 and net, of Python's ssl and socket, and of
vCenter (govmomi, the vSphere provider).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from config.problems import Problem, problem

if TYPE_CHECKING:
    from config.settings import Site

LOGIN = re.compile(r"(?i)cannot complete login|incorrect user name or password|InvalidLogin")
MISSING = re.compile(r"(?i)not found|no default|could not find|does not exist|unable to find")
DENIED = re.compile(
    r"(?i)permission to perform this operation was denied|NoPermission|\b403 forbidden"
)

CONNECTION = (
    (r"certificate has expired or is not yet valid|certificate has expired",
     "its certificate has expired, or this machine's clock is wrong",
     "renew the certificate, or set the clock"),
    (r"unknown authority|self[- ]signed|unable to get (local )?issuer",
     "its certificate is signed by an authority that this machine does not trust",
     "add that authority's certificate to those that this machine trusts"),
    (r"certificate is (not )?valid for|hostname mismatch|doesn't contain any IP SANs",
     "its certificate is for another name",
     "write the name that is in its certificate"),
    (r"no such host|name or service not known|name resolution|server misbehaving|nodename nor",
     "no name server knows this name",
     "check the name, and which name servers this machine asks"),
    (r"connection refused",
     "nothing listens there",
     "check the name, and whether it runs"),
    (r"no route to host|network is unreachable",
     "this machine has no network route to it",
     "check the network and the routes of this machine"),
    (r"timeout|timed out|deadline exceeded",
     "it does not answer",
     "check whether it runs, and the firewalls in between"),
    (r"connection reset|\bEOF\b|remote end closed",
     "it closed the connection",
     "look at its own log; a proxy in between may do this too"),
)  # fmt: skip
"""What a failed connection's words are, what they mean, and what to do."""


def meaning_of_connection(words: str) -> tuple[str, str] | None:
    """Say what a failed connection's words mean, and what to do; None for words of another kind."""
    for pattern, fault, fix in CONNECTION:
        if re.search(pattern, words, re.IGNORECASE):
            return fault, fix
    return None


def of_connection(path: tuple[str, ...], value: str, words: str) -> Problem | None:
    """Explain why a server cannot be reached; None where the words are about something else."""
    found = meaning_of_connection(words)
    if found is None:
        return None
    fault, fix = found
    return problem(path, value, fault, f"{fix} ({words})")


def of_vcenter(site: Site, words: str) -> Problem | None:
    """Explain why vCenter cannot be used at all; None where the words are about one object."""
    if LOGIN.search(words):
        fault = f"{site.vcenter} refuses the login of {site.user} with it"
        fix = (
            "check both at vCenter and set the password again, as docs/procedures/rotate-secret.md "
            f"says ({words})"
        )
        return Problem("platform:vspherePassword, platform:site.user", fault, fix)
    if DENIED.search(words):
        fix = f"give it the rights that docs/site-requirements.md lists ({words})"
        return problem(("site", "user"), site.user, "vCenter denies it a right that is needed", fix)
    return of_connection(("site", "vcenter"), site.vcenter, words)


def of_object(
    site: Site, path: tuple[str | int, ...], value: str, kind: str, words: str
) -> Problem:
    """Explain why vCenter cannot find an object that the settings name at this path."""
    general = of_vcenter(site, words)
    if general is not None:
        return general
    where = "" if kind == "datacenter" else f" in the datacenter {site.datacenter}"
    if MISSING.search(words):
        fault = f"{site.vcenter} has no such {kind}{where}, or {site.user} may not see it"
        slash = "; a `/` in a name is %2f" if "/" in value else ""
        fix = f"name one that it has{slash}, or give the rights ({words})"
        return problem(path, value, fault, fix)
    return problem(path, value, f"{site.vcenter} cannot give this {kind}", f"it says: {words}")
