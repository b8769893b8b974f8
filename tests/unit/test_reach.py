"""What can be tried before `up` is tried: against servers on loopback, and nobody else."""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import config
from clients.chart_repositories import package_of
from config import Settings
from ops.reach import network as reach_network
from ops.reach import questions as reach_questions
from ops.reach.network import Network, NotTriedError, proxy_of, who_answers
from ops.reach.questions import REGISTRIES, questions
from ops.reach.report import Outcome, Question, RefusedError, Row, as_text, ask_all, failed
from ops.settings.command import main
from tests.background import serving
from tests.unit.recorder import ROOT, production

PASSWORD = "proxys-own-word"  # noqa: S105 no real one
PINNED = config.versions.CILIUM
INDEX = f"""apiVersion: v1
entries:
  cilium:
  - apiVersion: v2
    name: cilium
    urls:
    - https://elsewhere.test/cilium-{PINNED}.tgz
    version: {PINNED}
  - apiVersion: v2
    name: cilium
    urls:
    - cilium-{PINNED}0.tgz
    version: {PINNED}0
  cilium-other:
  - name: cilium-other
    urls:
    - other.tgz
    version: 1.18.0
generated: "2026-01-01T00:00:00Z"
"""


def make_certificate(folder: Path, *, days: int = 100) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 and factory.test, which is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Company Gateway")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("factory.test")]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - dt.timedelta(days=200))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate, private


@dataclass
class Site:
    """An HTTPS server on loopback: answers by path, 404 for others."""

    port: int
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    @property
    def host(self) -> str:
        return f"factory.test:{self.port}"


@contextmanager
def https_site(certificate: Path, private: Path) -> Iterator[Site]:
    site = Site(0)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(self.path)
            status, body = site.answers.get(self.path, (404, b""))
            self.send_response(status)
            if status == 302:
                self.send_header("Location", body.decode())
                body = b""
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            return  # a client that does not trust it hangs up

    server = Server(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, private)
    # The handshake is made by the thread of the request, so that one client cannot hold the others.
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    site.port = server.server_address[1]
    with serving(server):
        yield site


@pytest.fixture(autouse=True)
def only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let names end on `.test` be this machine, and every other one unknown."""
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *arguments: Any, **more: Any) -> Any:
        if host.endswith(".test") or host.startswith("127."):
            return real("127.0.0.1", *arguments, **more)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    certificate, private = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with https_site(certificate, private) as made:
        yield made


@pytest.fixture
def strange_site(tmp_path: Path) -> Iterator[Site]:
    """Give a server whose certificate nobody trusts."""
    with https_site(*make_certificate(tmp_path)) as made:
        yield made


def settings(**changes: Any) -> Settings:
    document = production()
    for section, values in changes.items():
        document[section].update(values)
    return config.parse(document)


def only(found: list[Question], what: str) -> Question:
    (one,) = (each for each in found if each.what == what)
    return one


def answer_to(question: Question, network: Network | None = None) -> Row:
    (row,) = ask_all([question], network or Network({}, 2.0), limit=10)
    return row


def of(model: Settings, what: str, *, installed: bool = False) -> Row:
    return answer_to(only(questions(model, installed=installed), what))


# --- vCenter -----------------------------------------------------------------------------------


def test_a_vcenter_that_answers_with_a_trusted_certificate_is_good_and_its_end_is_told(
    site: Site,
) -> None:
    site.answers["/sdk/vimServiceVersions.xml"] = 200, b"<name>urn:vim25</name>"
    question = vcenter_at(site)
    row = answer_to(question)
    end = (dt.datetime.now(dt.UTC) + dt.timedelta(days=100)).date()
    assert row.outcome is Outcome.OK, row
    assert f"trusted, until {end}" in row.told


def test_a_certificate_that_ends_soon_is_to_be_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, private = make_certificate(tmp_path, days=7)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with https_site(certificate, private) as made:
        made.answers["/sdk/vimServiceVersions.xml"] = 200, b"urn:vim25"
        assert "renew it within" in answer_to(vcenter_at(made)).told


def test_a_certificate_of_an_unknown_authority_fails_and_its_issuer_is_named(
    strange_site: Site,
) -> None:
    row = answer_to(vcenter_at(strange_site))
    assert row.outcome is Outcome.FAILED
    assert "authority that this machine does not trust" in row.told
    assert "CN=Company Gateway" in row.fix


def test_an_expired_certificate_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, private = make_certificate(tmp_path, days=-1)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with https_site(certificate, private) as made:
        row = answer_to(vcenter_at(made))
    assert row.outcome is Outcome.FAILED
    assert "expired" in row.told


def test_something_else_under_vcenters_name_fails(site: Site) -> None:
    site.answers["/sdk/vimServiceVersions.xml"] = 200, b"<html>Blocked by policy</html>"
    row = answer_to(vcenter_at(site))
    assert row.outcome is Outcome.FAILED
    assert "not a vCenter" in row.told


def test_the_login_is_not_tried_and_the_reason_is_told() -> None:
    row = of(settings(), "vCenter's login")
    assert row.outcome is Outcome.NOT_TRIED
    assert "password" in row.told


def vcenter_at(site: Site) -> Question:
    """Give the question about vCenter; a setting takes a host alone, so its port is put in here."""
    model = settings()
    moved = model.site.model_copy(update={"vcenter": site.host})
    return only(questions(model.model_copy(update={"site": moved}), installed=False), "vCenter")


# --- The image factory and charts --------------------------------------------------------------


def test_the_factory_must_have_the_version_and_the_extensions(site: Site) -> None:
    model = settings(site={"imageFactory": site.host})
    site.answers["/versions"] = 200, json.dumps(["v1.13.8"]).encode()
    row = of(model, f"Talos {model.talos.tag}")
    assert (row.outcome, row.question.key) == (Outcome.FAILED, "platform:talos.version")
    site.answers["/versions"] = 200, json.dumps([model.talos.tag]).encode()
    assert of(model, f"Talos {model.talos.tag}").outcome is Outcome.OK
    official = f"/version/{model.talos.tag}/extensions/official"
    site.answers[official] = 200, json.dumps([{"name": "siderolabs/gvisor"}]).encode()
    row = of(model, "extensions")
    assert row.outcome is Outcome.FAILED
    assert "siderolabs/vmtoolsd-guest-agent" in row.told
    named = [{"name": "siderolabs/vmtoolsd-guest-agent"}]
    site.answers[official] = 200, json.dumps(named).encode()
    assert of(model, "extensions").outcome is Outcome.OK


def test_a_schematic_that_the_factory_does_not_know_fails(site: Site) -> None:
    document = production()
    document["site"]["imageFactory"] = site.host
    del document["talos"]["extensions"]
    document["talos"]["schematic"] = "ab" * 32
    model = config.parse(document)
    row = of(model, "schematic")
    assert (row.outcome, row.question.key) == (Outcome.FAILED, "platform:talos.schematic")
    site.answers[f"/schematics/{'ab' * 32}"] = 200, b"customization: {}"
    assert of(model, "schematic").outcome is Outcome.OK


def test_a_package_is_found_by_its_exact_version_and_chart() -> None:
    assert package_of(INDEX, "cilium", PINNED) == f"https://elsewhere.test/cilium-{PINNED}.tgz"
    assert package_of(INDEX, "cilium", f"{PINNED}0") == f"cilium-{PINNED}0.tgz"
    assert package_of(INDEX, "cilium", "1.18.0") is None
    assert package_of(INDEX, "cilium-other", "1.18.0") == "other.tgz"
    assert package_of(INDEX, "metallb", PINNED) is None


def test_a_chart_must_be_listed_and_its_package_must_be_there(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.kubernetes import cilium  # noqa: PLC0415 the SDK comes with it

    monkeypatch.setattr(cilium, "REPOSITORY", f"https://{site.host}/charts")
    model = settings()
    title = f"chart cilium {PINNED}"
    listed = INDEX.replace("https://elsewhere.test/", f"https://{site.host}/far/")
    site.answers["/charts/index.yaml"] = 200, listed.encode()
    row = of(model, title)
    assert (row.outcome, row.question.key) == (Outcome.FAILED, "platform:services.cilium.version")
    assert "package" in row.told
    site.answers[f"/far/cilium-{PINNED}.tgz"] = 302, b"/nearer.tgz"
    site.answers["/nearer.tgz"] = 200, b"..."
    assert of(model, title).outcome is Outcome.OK
    site.answers["/charts/index.yaml"] = 200, listed.replace(f"{PINNED}\n", "1.0.0\n").encode()
    assert "lists no cilium" in of(model, title).told


# --- Git, storage ------------------------------------------------------------------------------


def test_a_git_repository_must_be_readable_or_have_a_key(site: Site) -> None:
    document = production()
    argocd = document["services"]["argocd"]
    argocd["repositoryUrl"] = f"https://{site.host}/team/platform"
    refs = "/team/platform/info/refs?service=git-upload-pack"
    model = config.parse(document)
    row = of(model, "Git repository")
    assert row.outcome is Outcome.FAILED
    assert "repositoryAccess" in row.fix
    site.answers[refs] = 200, b"001e# service=git-upload-pack\n"
    assert of(model, "Git repository").outcome is Outcome.OK
    site.answers[refs] = 200, b"<html>Sign in</html>"
    assert of(model, "Git repository").outcome is Outcome.FAILED
    site.answers[refs] = 401, b""
    argocd["repositoryAccess"] = {"kind": "token", "user": "oauth2"}
    assert of(config.parse(document), "Git repository").outcome is Outcome.OK


def test_a_repository_by_ssh_is_tried_at_its_own_port(site: Site) -> None:
    document = production()
    argocd = document["services"]["argocd"]
    argocd["repositoryUrl"] = "ssh://git@factory.test:2222/team/platform.git"
    key = "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519" + bytes(36)).decode()
    argocd["repositoryAccess"] = {"kind": "deployKey", "hostKeys": [key]}
    row = of(config.parse(document), "Git repository")
    assert row.outcome is Outcome.FAILED
    assert "mistake" not in row.told
    argocd["repositoryUrl"] = f"ssh://git@{site.host}/team/platform.git"
    row = of(config.parse(document), "Git repository")
    assert (row.outcome, row.told) == (Outcome.OK, f"answers on TCP {site.host.split(':')[1]}")


def test_a_bucket_that_is_not_there_fails_and_one_that_asks_for_a_key_is_good(site: Site) -> None:
    document = production()
    document["services"]["backup"]["endpoint"] = f"https://{site.host}"
    model = config.parse(document)
    row = of(model, "backup storage")
    assert (row.outcome, row.question.key) == (Outcome.FAILED, "platform:services.backup.bucket")
    assert model.services.backup is not None
    site.answers[f"/{model.services.backup.bucket}"] = 403, b"<Code>AccessDenied</Code>"
    assert of(model, "backup storage").outcome is Outcome.OK


# --- Addresses, names, time --------------------------------------------------------------------


def address_rows(model: Settings, shown: dict[str, str]) -> dict[str, Row]:
    async def probe(address: str, port: int) -> str:
        if shown.get(address) == "no route":
            raise NotTriedError(shown[address])
        return shown.get(address, "") if port == 443 else ""

    asked = reach_questions.addresses(model, installed=False, try_port=probe)
    return {row.question.what: row for row in ask_all(list(asked), Network({}), limit=20)}


def test_addresses_at_which_nobody_answers_are_free() -> None:
    rows = address_rows(settings(), {})
    assert {"machine node01", "VIP Kubernetes API", "pool default"} <= rows.keys()
    assert {row.outcome for row in rows.values()} == {Outcome.OK}


def test_an_address_at_which_somebody_answers_is_taken() -> None:
    rows = address_rows(
        settings(), {"172.16.20.52": "a printer", "172.16.20.149": "a phone", "172.16.20.51": ""}
    )
    bad = {row.question.key: row.told for row in rows.values() if row.outcome is Outcome.FAILED}
    assert bad == {
        "platform:machines[1].address": "taken: a printer",
        "platform:network.pools[0].addresses": "taken: a phone",
    }


def test_without_a_route_addresses_are_not_tried() -> None:
    row = address_rows(settings(), {"172.16.20.250": "no route"})["VIP Kubernetes API"]
    assert (row.outcome, row.told) == (Outcome.NOT_TRIED, "no route")


def test_a_listener_and_a_host_that_refuses_are_both_somebody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = who_answers(["127.0.0.1"], [port])
    assert found == {"127.0.0.1": f"something answers there on TCP {port}"}
    assert who_answers(["127.0.0.1"], [port]) == {"127.0.0.1": f"a host there refuses TCP {port}"}


@pytest.mark.parametrize(
    ("own", "outcome"),
    [
        ("172.16.10.7", Outcome.OK),
        ("172.16.20.9", Outcome.OK),
        ("172.16.20.1", Outcome.FAILED),
        ("192.0.2.7", Outcome.FAILED),
        (None, Outcome.NOT_TRIED),
    ],
)
def test_the_machines_firewall_must_let_this_computer_in(own: str | None, outcome: Outcome) -> None:
    asked = reach_questions.firewall_rules(settings(), lambda _: own)
    (row,) = ask_all(list(asked), Network({}), limit=20)
    assert row.outcome is outcome
    assert row.question.key == "platform:network.firewall.operators"
    assert own is None or own in row.told


def test_of_an_installed_platform_the_machines_must_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(reach_questions, "TALOS_API_PORT", port)
        real = Network.connect
        monkeypatch.setattr(Network, "connect", lambda self, _, to: real(self, "127.0.0.1", to))
        row = of(settings(), "machine node01", installed=True)
        assert (row.outcome, row.told) == (Outcome.OK, f"answers on TCP {port}")
    assert of(settings(), "machine node01", installed=True).outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        ({"172.16.20.100"}, Outcome.OK),
        ({"172.16.20.101"}, Outcome.FAILED),
        (None, Outcome.FAILED),
    ],
)
def test_the_record_below_the_domain_must_point_to_traefik(
    monkeypatch: pytest.MonkeyPatch, found: set[str] | None, outcome: Outcome
) -> None:
    asked: list[str] = []

    def resolve(_: Network, name: str) -> set[str]:
        asked.append(name)
        if found is None:
            raise socket.gaierror(-2, "Name or service not known")
        return found

    monkeypatch.setattr(Network, "resolve", resolve)
    rows = ask_all(
        [one for one in questions(settings(), installed=False) if one.what == "DNS record"],
        Network({}),
    )
    assert {row.outcome for row in rows} == {outcome}
    assert sorted(asked) == ["platform.example.com", "reach-check.platform.example.com"]
    if outcome is Outcome.FAILED:
        assert all("172.16.20.100" in row.fix for row in rows)


@pytest.fixture
def udp() -> Iterator[tuple[int, list[Any]]]:
    """Give a UDP server on loopback and the list of its answers, made of questions."""
    answers: list[Any] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(5)

        def serve() -> None:
            try:
                text, peer = server.recvfrom(512)
                server.sendto(answers[0](text), peer)
            except OSError:
                return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1], answers
        thread.join(6)


def test_a_name_server_is_asked_for_a_name(udp: tuple[int, list[Any]]) -> None:
    port, answers = udp
    seen: list[bytes] = []

    def reply(question: bytes) -> bytes:
        seen.append(question)
        return question[:2] + struct.pack(">HHHHH", 0x8180, 1, 2, 0, 0) + question[12:]

    answers.append(reply)
    assert Network({}, 2.0).ask_dns("127.0.0.1", "factory.test", 1, port) == (0, 2)
    assert seen[0][12:] == b"\x07factory\x04test\0\0\x01\0\x01"


def test_a_time_server_tells_how_far_ahead_it_is(udp: tuple[int, list[Any]]) -> None:
    port, answers = udp

    def reply(_: bytes) -> bytes:
        seconds = int(time.time()) + 90 + reach_network.NTP_EPOCH
        return b"\x24\x02" + bytes(38) + struct.pack(">II", seconds, 0)

    answers.append(reply)
    assert 80 < Network({}, 2.0).ask_time("127.0.0.1", port) < 100


def test_a_clock_that_is_wrong_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Network, "ask_time", lambda *_: 90.0)
    row = of(settings(), "time server")
    assert row.outcome is Outcome.FAILED
    assert "90 s behind" in row.told
    monkeypatch.setattr(Network, "ask_time", lambda *_: -0.2)
    assert of(settings(), "time server").outcome is Outcome.OK


# --- Proxies -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exceptions", "url", "direct"),
    [
        ("", "https://factory.test/", False),
        ("factory.test", "https://factory.test/", True),
        ("test", "https://factory.test/", True),
        (".test", "https://factory.test/", True),
        (".factory.test", "https://factory.test/", False),
        ("*.test", "https://factory.test/", True),
        ("tory.test", "https://factory.test/", False),
        ("172.16.0.0/12", "https://172.16.20.51:6443/", True),
        ("172.16.0.0/12", "https://192.168.0.1/", False),
        ("factory.test:443", "https://factory.test/", True),
        ("factory.test:8443", "https://factory.test/", False),
        ("*", "https://factory.test/", True),
        ("", "https://127.0.0.1:99/", True),
    ],
)
def test_no_proxy_is_read_as_the_plugins_read_it(exceptions: str, url: str, direct: bool) -> None:  # noqa: FBT001
    environment = {"HTTPS_PROXY": "http://proxy.test:3128", "NO_PROXY": exceptions}
    found = proxy_of(url, environment)
    assert (found is None) is direct
    if found is not None:
        assert str(found) == "proxy.test:3128"


def test_a_proxys_password_is_shown_to_the_proxy_alone() -> None:
    found = proxy_of(
        "https://factory.test/", {"https_proxy": f"http://user:{PASSWORD}@proxy.test:3128"}
    )
    assert found is not None
    assert found.header.startswith("Basic ")
    assert PASSWORD not in f"{found} {found!r}"
    assert found.header not in f"{found} {found!r}"


def test_a_question_goes_through_the_environments_proxy(site: Site) -> None:
    site.answers["/versions"] = 200, json.dumps([f"v{config.versions.TALOS}"]).encode()
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            with client, socket.create_connection(("127.0.0.1", site.port)) as server:
                seen.append(client.recv(4096))
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=pump, args=(server, client), daemon=True)
                back.start()
                pump(client, server)
                back.join(6)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        proxy = f"http://user:{PASSWORD}@127.0.0.1:{listener.getsockname()[1]}"
        network = Network({"HTTPS_PROXY": proxy}, 5.0)
        model = settings(site={"imageFactory": "factory.test"})
        asked = only(questions(model, installed=False), f"Talos {model.talos.tag}")
        row = answer_to(asked, network)
        thread.join(6)
    assert row.outcome is Outcome.OK, row
    assert seen[0].startswith(b"CONNECT factory.test:443 ")
    assert b"Proxy-Authorization: Basic " in seen[0]
    assert site.asked == ["/versions"]


def pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while text := source.recv(65536):
            target.sendall(text)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


# --- The report --------------------------------------------------------------------------------


def question(what: str, ask: Any, *, by_machines: bool = False) -> Question:
    return Question(what, f"{what}.test", f"platform:{what}", ask, by_machines=by_machines)


def raising(error: Exception) -> Any:
    def ask(_: Network) -> str:
        raise error

    return ask


def test_the_table_tells_each_outcome_and_what_to_do_once() -> None:
    refused = ConnectionRefusedError(111, "Connection refused")
    rows = ask_all(
        [
            question("good", lambda _: "answers"),
            question("one", raising(refused)),
            question("two", raising(refused), by_machines=True),
            question("skipped", raising(NotTriedError("UDP gives no answer"))),
            question("bad", raising(RefusedError("no such bucket", "make it"))),
        ],
        Network({}),
    )
    text = as_text(rows)
    assert failed(rows)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "ok good good.test answers"
    assert "failed* two two.test nothing listens there" in lines
    assert "not tried skipped skipped.test UDP gives no answer" in lines
    assert text.count("check the name, and whether it runs") == 1
    assert "platform:one (one.test)" in lines
    assert "- no such bucket; make it:" in lines
    assert "* The machines need it" in text
    assert lines[-1] == "1 ok, 3 failed, 1 not tried"


def test_what_does_not_answer_in_time_has_failed_and_holds_nothing_up() -> None:
    held = threading.Event()
    asked = [question("slow", lambda _: str(held.wait(30))), question("good", lambda _: "answers")]
    begun = time.monotonic()
    rows = ask_all(asked, Network({}), limit=2.5)
    held.set()
    assert time.monotonic() - begun < 20
    assert [row.outcome for row in rows] == [Outcome.FAILED, Outcome.OK]
    assert "2.5 s" in rows[0].told


def test_a_mistake_in_one_question_hides_no_other_answer() -> None:
    rows = ask_all(
        [question("broken", raising(KeyError("x"))), question("good", lambda _: "answers")],
        Network({}),
    )
    assert [row.outcome for row in rows] == [Outcome.FAILED, Outcome.OK]
    assert "this check itself has a mistake (KeyError: 'x')" in rows[0].told


@pytest.mark.parametrize(("ask", "status"), [(lambda _: "answers", 0), (raising(OSError("x")), 1)])
def test_the_command_fails_when_something_failed(
    ask: Any, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[bool] = []

    def questions_of(_: Settings, *, installed: bool) -> list[Question]:
        given.append(installed)
        return [question("site", ask)]

    monkeypatch.setattr(reach_questions, "questions", questions_of)
    argv = ["check", "--reach", "--installed", str(ROOT / "Pulumi.prod.yaml")]
    assert main(argv) == status
    assert given == [True]
    out = capsys.readouterr().out
    assert "good (3 machines)" in out
    assert ("1 failed" in out) is bool(status)


def test_every_setting_that_names_a_host_is_asked_about() -> None:
    document = production()
    document["talos"]["logDestinations"] = {
        "services": ["tcp://172.16.30.5:5140"],
        "kernel": ["udp://172.16.30.6:5141"],
    }
    document["talos"]["diskEncryption"] = {"key": "kms", "endpoint": "https://172.16.30.7:4050"}
    document["services"]["cilium"]["bgp"] = {
        "localAsn": 64512,
        "peers": [{"address": "172.16.20.2", "asn": 64513}],
    }
    model = config.parse(document)
    told = " ".join(f"{one.where} {one.key}" for one in questions(model, installed=False))
    for entry in config.show.address_plan(model):
        if entry.use not in ("machine network", "pod network", "service network", "gateway"):
            assert entry.key in told
    for host in ("172.16.30.5", "172.16.30.6", "172.16.30.7", "172.16.20.2", *REGISTRIES):
        assert host in told


def test_the_pages_name_the_check_and_every_registry() -> None:
    page = (ROOT / "docs" / "site-requirements.md").read_text(encoding="utf-8")
    install = (ROOT / "docs" / "procedures" / "first-install.md").read_text(encoding="utf-8")
    assert "check --reach" in page
    assert "check --reach" in install
    assert [one for one in REGISTRIES if f"`{one}`" not in page] == []
