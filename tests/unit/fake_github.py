"""A GitHub on loopback: one repository with its rules, in pages, with permissions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests import background

REPOSITORY = "example/platform"
TOKEN = "token-of-the-test"  # noqa: S105 of no real thing
BOT = "github-actions[bot]"
LIMIT = 65536


@dataclass
class State:
    """What the repository holds, and what was asked of it."""

    comments: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    issues: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    refuse_writes: bool = False
    redirect_to: str = ""
    next_page_at: str = ""
    url: str = ""
    last_id: int = 0
    pulls: list[dict[str, Any]] = field(default_factory=list)
    approved: set[tuple[int, str]] = field(default_factory=set)
    """Pull requests and their commits that somebody else than their author approved."""
    may_approve: bool = True
    """The repository's setting that lets a workflow's token approve."""
    checks: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    archives: dict[int, bytes] = field(default_factory=dict)
    deployments: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    releases: dict[str, str] = field(default_factory=dict)
    """When a release was published, by REPOSITORY/TAG."""
    merge: Callable[[dict[str, Any]], str] | None = None
    """Merges a pull request in Git, and gives the merge's commit."""

    def writes(self) -> list[str]:
        return [f"{method} {path}" for method, path in self.asked if method != "GET"]

    def comment(self, issue: int, body: str, author: str = BOT) -> dict[str, Any]:
        self.last_id += 1
        made = {
            "id": self.last_id,
            "body": body,
            "user": {"login": author},
            "html_url": f"https://github.test/{issue}#{self.last_id}",
        }
        self.comments.setdefault(issue, []).append(made)
        return made

    def issue(self, body: str, labels: list[str], author: str = BOT, **more: Any) -> dict[str, Any]:
        self.last_id += 1
        made = {
            "number": self.last_id,
            "body": body,
            "state": "open",
            "labels": [{"name": one} for one in labels],
            "user": {"login": author},
            "html_url": f"https://github.test/{self.last_id}",
            **more,
        }
        self.issues.append(made)
        return made


class Handler(BaseHTTPRequestHandler):
    """Serves the few paths that reports need; anything else is 404, as GitHub says it."""

    state: State

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the base class's name
        pass

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PATCH = do_PUT = do_GET  # noqa: N815 the same

    def _serve(self) -> None:
        url = urlsplit(self.path)
        self.state.asked.append((self.command, url.path))
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        if url.path.startswith("/storage/"):
            self._storage(int(url.path.rpartition("/")[2]))
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"message": "Bad credentials"})
        elif self.state.redirect_to:
            self._answer(302, {}, {"Location": self.state.redirect_to})
        elif self.command != "GET" and self.state.refuse_writes:
            self._answer(403, {"message": "Resource not accessible by integration"})
        elif len(body.get("body") or "") > LIMIT:
            self._answer(422, {"message": "body is too long (maximum is 65536 characters)"})
        elif (release := url.path.removeprefix("/repos/").replace("releases/tags/", "")) in (
            self.state.releases
        ):
            self._answer(200, {"published_at": self.state.releases[release]})
        else:
            parts = url.path.removeprefix(f"/repos/{REPOSITORY}/").split("/")
            self._route(parts, body, parse_qs(url.query))

    def _route(self, parts: list[str], body: dict[str, Any], query: dict[str, list[str]]) -> None:
        match self.command, parts:
            case "GET", ["issues", number, "comments"]:
                self._list(self.state.comments.get(int(number), []), query)
            case "POST", ["issues", number, "comments"]:
                self._answer(201, self.state.comment(int(number), body["body"]))
            case "PATCH", ["issues", "comments", number]:
                everything = [one for some in self.state.comments.values() for one in some]
                self._change(everything, "id", int(number), body)
            case "GET", ["issues"]:
                label = query.get("labels", [""])[0]
                found = [
                    one
                    for one in self.state.issues
                    if one["state"] == query.get("state", ["open"])[0]
                    and label in [name["name"] for name in one["labels"]]
                ]
                self._list(found, query)
            case "POST", ["issues"]:
                made = self.state.issue(body["body"], body["labels"], title=body["title"])
                self._answer(201, made)
            case "PATCH", ["issues", number]:
                self._change(self.state.issues, "number", int(number), body)
            case _:
                self._route_of_updates(parts, body, query)

    def _route_of_updates(  # noqa: C901 a table
        self, parts: list[str], body: dict[str, Any], query: dict[str, list[str]]
    ) -> None:
        state = self.state
        match self.command, parts:
            case "GET", ["pulls"]:
                self._list([one for one in state.pulls if one["state"] == "open"], query)
            case "POST", ["pulls", number, "reviews"]:
                self._approve(int(number), body)
            case "PUT", ["pulls", number, "merge"]:
                self._merge(int(number), body)
            case "GET", ["commits", commit, "check-runs"]:
                self._list(state.checks.get(commit, []), query, "check_runs")
            case "GET", ["commits", commit, "pulls"]:
                self._list([one for one in state.pulls if one["merged"] == commit], query)
            case "GET", ["actions", "artifacts"]:
                named = [one for one in state.artifacts if one["name"] == query["name"][0]]
                self._list(named, query, "artifacts")
            case "GET", ["actions", "artifacts", number, "zip"]:
                # To a storage of its own, as GitHub does.
                self._answer(302, {}, {"Location": f"{state.url}/storage/{number}"})
            case "GET", ["actions", "runs"]:
                found = [one for one in state.runs if one["status"] == query["status"][0]]
                self._list(found, query, "workflow_runs")
            case "GET", ["deployments"]:
                where = query["environment"][0]
                found = [one for one in state.deployments if one["environment"] == where]
                self._list(sorted(found, key=lambda one: -int(one["id"])), query)
            case "GET", ["deployments", number, "statuses"]:
                found = [one for one in state.deployments if one["id"] == int(number)]
                self._list(found[0]["statuses"], query)
            case _:
                self._answer(404, {"message": "Not Found"})

    def _approve(self, number: int, body: dict[str, Any]) -> None:
        if not self.state.may_approve:
            said = "GitHub Actions is not permitted to approve pull requests."
            self._answer(422, {"message": said})
            return
        self.state.approved.add((number, body["commit_id"]))
        self._answer(200, {"state": "APPROVED"})

    def _merge(self, number: int, body: dict[str, Any]) -> None:
        pull = next(one for one in self.state.pulls if one["number"] == number)
        if body["sha"] != pull["head"]["sha"]:
            said = "Head branch was modified. Review and try the merge again."
            self._answer(409, {"message": said})
        elif (number, pull["head"]["sha"]) not in self.state.approved:
            said = "At least 1 approving review is required by reviewers with write access."
            self._answer(405, {"message": said})
        else:
            assert self.state.merge is not None
            pull["merged"] = pull["merge_commit_sha"] = self.state.merge(pull)
            pull["state"] = "closed"
            self._answer(200, {"sha": pull["merged"], "merged": True})

    def _change(
        self, among: list[dict[str, Any]], key: str, number: int, body: dict[str, Any]
    ) -> None:
        one = next(one for one in among if one[key] == number)
        one.update(body)
        self._answer(200, one)

    def _storage(self, number: int) -> None:
        """Serve an archive to whoever knows its address; a token has no business here."""
        if self.headers.get("Authorization"):
            self._answer(400, {"message": "Only one auth mechanism allowed"})
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.state.archives[number])

    def _list(
        self, items: list[dict[str, Any]], query: dict[str, list[str]], key: str = ""
    ) -> None:
        size, page = int(query["per_page"][0]), int(query.get("page", ["1"])[0])
        more = {}
        if len(items) > page * size:
            rest = "&".join(f"{name}={one[0]}" for name, one in query.items() if name != "page")
            host = self.state.next_page_at or self.state.url
            path = urlsplit(self.path).path
            more["Link"] = f'<{host}{path}?{rest}&page={page + 1}>; rel="next"'
        shown = items[(page - 1) * size : page * size]
        self._answer(200, {"total_count": len(items), key: shown} if key else shown, more)

    def _answer(self, code: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serving() -> Iterator[State]:
    """Serve an empty repository for as long as the block runs."""
    state = State()
    handler = type("Served", (Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    with background.serving(server):
        yield state
