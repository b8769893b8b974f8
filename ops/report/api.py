"""Layer Report: GitHub's REST API, as far as the project needs it, with the standard library only.

A self-hosted runner need not have GitHub's own command line.
"""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

from ops.report.text import ReportError

TRUSTED = re.compile(r"https://|http://127\.0\.0\.1:\d+(/|$)")
PAGE = 100
TIMEOUT = 30
"""Seconds that a request may take."""
NEXT = re.compile(r'<([^>]+)>;\s*rel="next"')
VARIABLES = {
    "GITHUB_TOKEN": "give the step `GITHUB_TOKEN: ${{ github.token }}` in its env",
    "GITHUB_REPOSITORY": "GitHub Actions sets it; elsewhere, export GITHUB_REPOSITORY=OWNER/NAME",
    "GITHUB_API_URL": "GitHub Actions sets it; elsewhere, export https://api.github.com",
    "GITHUB_STEP_SUMMARY": "GitHub Actions sets it; elsewhere, export the path of a file",
    "PULL_REQUEST": "give the step the pull request's number in its env",
}
PERMISSIONS = {
    "comments": "the job needs `permissions: pull-requests: write`, and a fork never has it",
    "issues": "the job needs `permissions: issues: write`",
    "merge": "the job needs `permissions: contents: write`, and the ruleset must allow the merge",
    "reviews": "the repository's setting `Allow GitHub Actions to create and approve pull "
    "requests` must be on, and the job needs `permissions: pull-requests: write`",
    "check-runs": "the job needs `permissions: checks: read`",
    "deployments": "the job needs `permissions: deployments: read`",
    "actions": "the job needs `permissions: actions: read`",
}


class RefusedError(ReportError):
    """GitHub refuses a request."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code
        """HTTP's status."""


def variable(name: str) -> str:
    """Give an environment variable, or the fix when it is missing."""
    value = os.environ.get(name, "")
    if not value:
        raise ReportError(f"{name} is not set: {VARIABLES[name]}")
    return value


class GitHub:
    """One repository's REST API. The token goes into a header and nowhere else."""

    def __init__(self, url: str, repository: str, token: str) -> None:
        """Take the API's address, OWNER/NAME and a token."""
        self.repository = repository
        self._base = f"{url.rstrip('/')}/repos/{repository}"
        self._host = url.rstrip("/")
        self._token = token

    @classmethod
    def from_environment(cls) -> GitHub:
        """Take what GitHub Actions sets."""
        names = ("GITHUB_API_URL", "GITHUB_REPOSITORY", "GITHUB_TOKEN")
        url, repository, token = (variable(name) for name in names)
        if not TRUSTED.match(url):
            raise ReportError(f"GITHUB_API_URL is {url}: the token goes over https only")
        return cls(url, repository, token)

    def pages(self, path: str, key: str = "") -> Iterator[dict[str, Any]]:
        """Give all items of a list, over all of its pages; some lists stand under a key."""
        joint = "&" if "?" in path else "?"
        url: str | None = f"{self._base}/{path}{joint}per_page={PAGE}"
        while url:
            items, link = self._request("GET", url)
            yield from items[key] if key else items
            found = NEXT.search(link)
            url = found[1] if found else None
            if url and not url.startswith(self._host + "/"):
                raise ReportError(f"the list's next page is at another host, {url}: not followed")

    def get(self, path: str) -> dict[str, Any]:
        """Give one thing of the repository."""
        answer, _ = self._request("GET", f"{self._base}/{path}")
        result: dict[str, Any] = answer
        return result

    def release(self, repository: str, tag: str) -> dict[str, Any]:
        """Give a release of any repository, OWNER/NAME."""
        answer, _ = self._request("GET", f"{self._host}/repos/{repository}/releases/tags/{tag}")
        result: dict[str, Any] = answer
        return result

    def archive(self, path: str) -> bytes:
        """Give the archive that GitHub redirects to; the token does not go there."""
        with self._open("GET", f"{self._base}/{path}") as answer:
            body: bytes = answer.read()
            return body

    def send(self, method: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create or change something, and give it as it is then."""
        answer, _ = self._request(method, f"{self._base}/{path}", body)
        result: dict[str, Any] = answer
        return result

    def _request(
        self, method: str, url: str, body: Mapping[str, Any] | None = None
    ) -> tuple[Any, str]:
        try:
            with self._open(method, url, body) as answer:
                return json.load(answer), answer.headers.get("Link") or ""
        except (OSError, ValueError) as error:
            raise ReportError(f"{method} {url}: no usable answer from GitHub: {error}") from None

    def _open(self, method: str, url: str, body: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401 urllib has no type for an answer
        data = None if body is None else json.dumps(body).encode()
        headers = {
            "Accept": "application/vnd.github+json",
            "Content-Type": "application/json",
            "User-Agent": "platform",
            "X-GitHub-Api-Version": "2022-11-28",
        }
        request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310 checked above
        # Not to where a redirection leads.
        request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        try:
            return urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310 checked above
        except urllib.error.HTTPError as error:
            raise RefusedError(_refused(method, url, error), error.code) from None
        except OSError as error:
            raise ReportError(f"{method} {url}: no usable answer from GitHub: {error}") from None


def _refused(method: str, url: str, error: urllib.error.HTTPError) -> str:
    """Say what GitHub said, and what it most likely lacks."""
    try:
        said = str(json.load(error).get("message", ""))
    except (ValueError, AttributeError):
        said = ""
    message = f"{method} {url}: {error.code} {error.reason}: {said[:300]}"
    if error.code in (403, 404, 405, 422):
        lacks = next((fix for part, fix in PERMISSIONS.items() if f"/{part}" in url), None)
        message += f"\n{lacks}" if lacks else ""
    return message
