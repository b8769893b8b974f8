"""Asks the ingress; a program that tests run in a world."""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable


class Ingress(http.client.HTTPSConnection):
    """HTTPS to one address, whatever it is the host of; its certificate is verified by name."""

    def __init__(self, address: str, host: str, trusted: ssl.SSLContext, patience: float) -> None:
        super().__init__(host, timeout=patience, context=trusted)
        self._address, self._trusted = address, trusted

    def connect(self) -> None:
        """Connect to the address."""
        plain = socket.create_connection((self._address, 443), self.timeout)
        self.sock = self._trusted.wrap_socket(plain, server_hostname=self.host)


def ask(connection: Ingress, path: str) -> str:
    """Give what went wrong, "" when an answer with status 200 came."""
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return f"{type(error).__name__}: {error}"
    return "" if answer.status == http.client.OK else f"{answer.status} {answer.reason}"


def load(
    connect: Callable[[], Ingress], path: str, seconds: float, clients: int
) -> dict[str, int | list[str]]:
    """Ask without a pause from so many clients; gives how many got answers, and what failed."""
    answered, failed = [0] * clients, list[str]()
    end = time.monotonic() + seconds

    def run(number: int) -> None:
        connection = connect()
        while time.monotonic() < end:
            wrong = ask(connection, path)
            if wrong:
                failed.append(wrong)
            else:
                answered[number] += 1

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"answered": sum(answered), "failed": failed}


def watch(connect: Callable[[], Ingress], path: str, seconds: float) -> None:
    """Ask with a new connection five times a second; writes a line of JSON for each question."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.monotonic()
        connection = connect()
        wrong = ask(connection, path)
        connection.close()
        line = {"at": begun, "answered": not wrong, "wrong": wrong}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        time.sleep(max(0.0, begun + 0.2 - time.monotonic()))


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["load", "watch"])
    parser.add_argument("--address", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--authority", required=True)
    parser.add_argument("--path", default="/")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument(
        "--patience", type=float, default=1.0, help="seconds that an answer may take"
    )
    given = parser.parse_args()
    trusted = ssl.create_default_context(cafile=given.authority)

    def connect() -> Ingress:
        return Ingress(given.address, given.host, trusted, given.patience)

    if given.what == "watch":
        watch(connect, given.path, given.seconds)
    else:
        done = load(connect, given.path, given.seconds, given.clients)
        sys.stdout.write(json.dumps(done) + "\n")


if __name__ == "__main__":
    main()
