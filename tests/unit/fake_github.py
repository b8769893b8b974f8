"""A GitHub on loopback: comments and issues of one repository, in pages, with permissions."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

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

    do_POST = do_PATCH = do_GET  # noqa: N815 the same

    def _serve(self) -> None:
        url = urlsplit(self.path)
        self.state.asked.append((self.command, url.path))
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"message": "Bad credentials"})
        elif self.state.redirect_to:
            self._answer(302, {}, {"Location": self.state.redirect_to})
        elif self.command != "GET" and self.state.refuse_writes:
            self._answer(403, {"message": "Resource not accessible by integration"})
        elif len(body.get("body") or "") > LIMIT:
            self._answer(422, {"message": "body is too long (maximum is 65536 characters)"})
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
                self._answer(404, {"message": "Not Found"})

    def _change(
        self, among: list[dict[str, Any]], key: str, number: int, body: dict[str, Any]
    ) -> None:
        one = next(one for one in among if one[key] == number)
        one.update(body)
        self._answer(200, one)

    def _list(self, items: list[dict[str, Any]], query: dict[str, list[str]]) -> None:
        size, page = int(query["per_page"][0]), int(query.get("page", ["1"])[0])
        more = {}
        if len(items) > page * size:
            rest = "&".join(f"{name}={one[0]}" for name, one in query.items() if name != "page")
            host = self.state.next_page_at or self.state.url
            path = urlsplit(self.path).path
            more["Link"] = f'<{host}{path}?{rest}&page={page + 1}>; rel="next"'
        self._answer(200, items[(page - 1) * size : page * size], more)

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
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
