"""Hostile stack files: each kind in many forms, refused with its key, at once and with no leak."""

# ruff: noqa: E501, RUF001, S104 - a case is a line, letters look alike on purpose, no address is used
from __future__ import annotations

import functools
import json
import time
from pathlib import Path

import pytest

from ops.settings.command import main

ROOT = Path(__file__).parents[2]
BASE = (
    (ROOT / "tests" / "fixtures" / "config" / "good" / "three-and-two-workers.yaml")
    .read_text()
    .replace(
        "bucket: platform-prod-etcd", 'bucket: platform-prod-etcd\n      schedule: "0 * * * *"'
    )
    .replace("example/platform\n", "example/platform\n      revision: main\n")
)
MACHINE = "cpus: 4, memoryMiB: 8192, diskGiB: 50 }"
DISKS = ", ".join(f"{{ name: d{number}, sizeGiB: 1 }}" for number in range(15))


def edited(old: str, new: str) -> str:
    assert old in BASE
    return BASE.replace(old, new, 1)


def named(key: str, *values: str, old: str) -> list[tuple[str, str]]:
    """Give each value in an old one's place, with the key that must be named."""
    return [(edited(old, old.rpartition(" ")[0] + " " + value), key) for value in values]


def bomb(levels: int, width: int) -> str:
    lines = [f"  bomb:a0: &a0 [{', '.join(['x'] * width)}]"]
    for level in range(1, levels):
        inner = ", ".join([f"*a{level - 1}"] * width)
        lines.append(f"  bomb:a{level}: &a{level} [{inner}]")
    return BASE + "\n".join(lines) + "\n"


KINDS: dict[str, list[tuple[str, str]]] = {
    "a section twice": [
        (BASE + "  cluster: { name: other }\n", "platform:cluster"),
        (BASE + "  platform:config:cluster: { name: other }\n", "platform:cluster"),
        (BASE.replace("  platform:site:", "  site: {}\n  platform:site:"), "platform:site"),
        (BASE + "  kubernetes:\n", "platform:kubernetes"),
        (BASE + '  "platform:talos": {}\n', "platform:talos"),
        (BASE + "  config:platform:talos: {}\n", "config:platform:talos"),
        (BASE + "  machines: []\n", "platform:machines"),
        (BASE.replace("platform:network", "network") + "  platform:network: {}\n", "platform:net"),
        (BASE + "config: {}\n", "config"),
    ],
    "keys that are not the project's": [
        (BASE + "  Platform:cluster: { name: other }\n", "Platform:cluster"),
        (BASE + '  "platform :cluster": { name: other }\n', '"platform :cluster"'),
        (BASE + "  plaftorm:cluster: { name: other }\n", "plaftorm:cluster"),
        (BASE + "  platform: { cluster: { name: other } }\n", "platform:platform"),
        (BASE + '  "platform:сluster": { name: other }\n', "platform:\\u0441luster"),
        (BASE + "  platform:Cluster: { name: other }\n", "platform:Cluster"),
        (BASE + "  a:b:c:d: x\n", "a:b:c:d"),
        (BASE + "Config: {}\n", "Config"),
        (BASE + "environment: [production]\n", "environment"),
        (BASE + "  pulumi:disable-default-providers: [aws]\n", "pulumi:disable-default"),
    ],
    "a file that is larger than it looks": [
        (bomb(9, 10), "20000 keys"),
        (bomb(3, 400), "20000 keys"),
        (bomb(30, 2), "20000 keys"),
        (bomb(2, 300), "20000 keys"),
        (BASE + "  bomb:a: &a [x]\n  bomb:b: [" + "*a, " * 5000 + "*a]\n", "aliases"),
        (BASE + "  x:a: &a { k: *a }\n", "its own anchor"),
        (BASE + "  x:a: &a [[*a]]\n", "its own anchor"),
        (BASE + "  x:a: &a\n    <<: *a\n", "its own anchor"),
        (BASE + "  x:a: " + "[" * 3000 + "]" * 3000 + "\n", "nested deeper"),
        (BASE + "  x:a: " + "{a: " * 100 + "1" + "}" * 100 + "\n", "nested deeper"),
        (BASE + "  x:a:\n    " + "- " * 60 + "a\n", "nested deeper"),
        (
            BASE + f"  platform:site: '{json.dumps(dict.fromkeys(map(str, range(20_000)), 1))}'\n",
            "platform:site",
        ),
        (BASE + "  platform:site: '" + "[" * 5000 + "]" * 5000 + "'\n", "platform:site"),
        (BASE + "#" * 300_000, "larger than 256 KiB"),
        (BASE + "  x:a: [" + "1," * 25_000 + "1]\n", "20000 keys"),
        (BASE + "  ? " + "k" * 5000 + "\n  : x\n", "a key of 5000 characters"),
    ],
    "several documents": [
        (BASE + "---\nconfig: {}\n", "another document"),
        ("---\n" + BASE + "...\n---\n" + BASE, "another document"),
        (BASE + "---\n", "another document"),
        ("{}\n---\n" + BASE, "another document"),
        (BASE + "...\n---\n# nothing\n", "another document"),
    ],
    "numbers that are none": [
        *named(
            "machines[0].cpus",
            "9" * 5000 + ",",
            "9" * 20 + ",",
            "-1,",
            ".inf,",
            "4.0,",
            "0o4,",
            "0b100,",
            "1e1,",
            "0x4,",
            "04,",
            '"4",',
            "٤,",
            "true,",
            "null,",
            old="cpus: 4,",
        ),
        *named(
            "machines[0].memoryMiB",
            "8191,",
            "8_193,",
            "-8192,",
            "1e4,",
            "99999999999,",
            "2.5,",
            old="memoryMiB: 8192,",
        ),
        *named(
            "dataDisks[0].sizeGiB", "0", "-5", "63489", "1e9", ".nan", "1" * 400, old="sizeGiB: 500"
        ),
        *named("spareAddresses", "-1", "65537", "1e2", "9" * 30, "5.5", old="spareAddresses: 5"),
        (edited(MACHINE, MACHINE[:-1] + f", dataDisks: [{DISKS}] }}"), "dataDisks: 15 entries"),
        (edited("172.16.20.100 }", "172.16.20.100, replicas: 101 }"), "traefik.replicas"),
        (edited("172.16.20.100 }", "172.16.20.100, replicas: 1 }"), "traefik.replicas"),
    ],
    "names that are numbers to the engine": [
        *named(
            "site.datastore",
            "1e3",
            "017",
            ".nan",
            "0x10",
            "1_000",
            "+1",
            "-.inf",
            ".5",
            "5.",
            "08",
            "0o17",
            "-0b1",
            "1.50",
            "1e999",
            "~",
            "null",
            "true",
            "2026-11-28",
            "2026-11-28T10:00:00Z",
            "2026-11-28 10:00:00",
            old="datastore: datastore01",
        ),
        *named("machines[0].name", "017,", "1e3,", "0,", "12,", "False,", old="name: node01,"),
        (edited("{ topology.kubernetes.io/zone: rack-1 }", "{ zone: 1 }"), "labels.zone"),
        (edited("{ topology.kubernetes.io/zone: rack-1 }", "{ 1: one }"), "labels.1"),
        (edited("{ topology.kubernetes.io/zone: rack-1 }", "{ true: one }"), "labels.true"),
        (edited("{ topology.kubernetes.io/zone: rack-1 }", "{ 2026-11-28: a }"), "2026-11-28"),
    ],
    "tags and odd keys": [
        *named(
            "cluster.name",
            "!!python/object/apply:os.system [id]",
            "!name prod",
            "!!binary aWQ=",
            "! prod",
            "!<tag:x> prod",
            "!!set {a}",
            old="name: prod",
        ),
        *named("cpus", "!!float 4,", "!!int 0x4,", "!!bool 4,", old="cpus: 4,"),
        (BASE + "  x:a: { ? [a] : b }\n", "a key that is not a text"),
        (BASE + "  x:a: { ? { a: b } : c }\n", "a key that is not a text"),
        (BASE + "  x:a: &a b\n  x:c: { *a : d }\n", "a key that is not a text"),
        (BASE + "  x:a: { !t b: c }\n", "a tag at a key"),
        (BASE + "  x:a: { <<: text }\n", "a merge of what is not a mapping"),
        ("%TAG ! tag:x,2026:\n---\n" + BASE, "%TAG"),
        (edited("name: prod", "name: prod\n    name: other"), "platform:cluster.name"),
        (edited("name: prod", 'name: prod\n    "name": prod'), "platform:cluster.name"),
        (BASE + "  x:a: *nowhere\n", "without its anchor"),
    ],
    "JSON in a text": [
        (edited("platform:kubernetes:\n    version: 1.34.1", line), "platform:kubernetes")
        for line in (
            "platform:kubernetes: '{\"version\": NaN}'",
            "platform:kubernetes: '{\"version\": Infinity}'",
            'platform:kubernetes: \'{"version": "1.34.1", "version": "1.34.0"}\'',
            'platform:kubernetes: \'{"version": ' + "1" * 5000 + "}'",
            "platform:kubernetes: '" + '{"a":' * 300 + "1" + "}" * 300 + "'",
            "platform:kubernetes: '[\"version\"]'",
            "platform:kubernetes: '\"\\ud800\"'",
        )
    ],
    "characters that nobody sees": [
        *named(
            "site.datacenter",
            r'"dc\n01"',
            r'"dc\001"',
            r'"dc\x7f"',
            r'"dc\u0085"',
            r'"\e[31mdc"',
            r'"dc\u2028"',
            r'"dc\u202E"',
            r'"dc\u2066"',
            r'"dc\u200B01"',
            r'"dc\u00AD01"',
            r'"dc\uFEFF"',
            r'"dc\u00A001"',
            r'"dc\u3164"',
            r'"dc\U000E0041"',
            r'"dc\uE000"',
            r'"::error::dc"',
            '"dc##[error]"',
            r'"dc\r::error::x"',
            '"dc01 "',
            '""',
            '"  "',
            old="datacenter: dc01",
        ),
        (edited("zone: rack-1", r'"zone\n": rack-1'), "zone"),
        (edited("datacenter: dc01", "datacenter: |\n      dc\n      01"), "site.datacenter"),
        (BASE + '  "x:a\\n::error::b": c\n', "not a key of a stack"),
        (BASE + "  x:a: '\u202eb'\n", "U+202E"),
        (BASE + "  # \u202e\n", "U+202E"),
        (BASE + "  x:a: '\x1b[2J'\n", "U+001B"),
    ],
    "letters and digits of other alphabets": [
        *named(
            "talos.version",
            "1.13.9٩",
            "１.13.9",
            "1.13.߉",
            "1.13.9²",
            "1。13。9",
            old="version: 1.13.9",
        ),
        *named(
            "machines[0].name",
            "nоde01,",
            "node٠١,",
            "ｎode01,",
            "node０1,",
            "noɗe01,",
            old="name: node01,",
        ),
        *named(
            "site.datastore",
            "dаtastore",
            "ｄatastore",
            "data𝐬tore",
            "storeа1",
            "ds٣x",
            old="datastore: datastore01",
        ),
        *named(
            "talos.installDisk",
            "/dev/ѕda",
            "/dev/sdа",
            "/dev/nvme٠n1",
            "/dev/sda１",
            "/dеv/sda",
            old="installDisk: /dev/sda",
        ),
        *[
            (edited('"0 * * * *"', text), "services.backup.schedule")
            for text in ('"٠ * * * *"', '"0 １ * * *"', '"0 0 ۱ * *"', '"0 0 1 ᧑ *"', '"0 0 1 1 ²"')
        ],
        *named(
            "network.gateway",
            "１72.16.20.1",
            "172.16.20.١",
            "172。16.20.1",
            old="gateway: 172.16.20.1",
        ),
    ],
    "what a shell or a tool takes for its own": [
        *[
            (edited("revision: main", f"revision: {text}"), "argocd.revision")
            for text in (
                "--upload-pack=id",
                '"-x"',
                '"main;id"',
                '"$(id)"',
                '"`id`"',
                '"a b"',
                "../../x",
                "a..b",
                "a@{1}",
                "a/",
                "a.lock",
                "/a",
                '"a\\\\b"',
                "a~1",
                '"a:b"',
                '"a*"',
                '""',
            )
        ],
        *named(
            "site.folder",
            '"$(id)"',
            '"`id`"',
            '"a;b"',
            '"a|b"',
            '"a>b"',
            "../a",
            "a/../b",
            "/a",
            "a//b",
            "a/",
            '"-rf"',
            "a/-rf",
            '"a\\\\b"',
            '"~/a"',
            "'a\"b'",
            '"a*"',
            old="folder: platform-prod",
        ),
        *named(
            "talos.patches",
            "/etc",
            "../prod",
            "clusters/../..",
            "clusters//prod",
            '"$HOME"',
            '"-x"',
            "clusters/-x",
            "~/prod",
            '"clusters prod"',
            ".",
            old="patches: clusters/prod",
        ),
        *named(
            "talos.installDisk",
            "/dev/../etc/shadow",
            "/dev/null",
            "/dev/sda/../sdb",
            "sda",
            "/etc/fstab",
            "/dev/",
            "/dev//sda",
            "/dev/disk/by-id/..",
            "/dev/disk/by-id/../sda",
            '"/dev/sda;id"',
            "/dev/stdin",
            "/dev/sr0",
            old="installDisk: /dev/sda",
        ),
        *named(
            "argocd.repositoryUrl",
            '"https://github.com/a;id"',
            '"https://github.com/$(id)"',
            "https://github.com/../../etc",
            "https://github.com/a?b=c",
            "https://github.com/a#b",
            '"https://github.com/a b"',
            "https://github.com:0/a",
            "https://github.com:99999/a",
            "https://-oProxyCommand=id/a",
            "file:///etc/passwd",
            "ext::sh",
            "https:///a",
            "HTTPS://github.com/a",
            "https://[::1]/a",
            "https://github.com\\\\@evil.org/a",
            old="repositoryUrl: https://github.com/example/platform",
        ),
        *named(
            "site.user",
            '"-u"',
            '"$(id)"',
            '"`id`"',
            '"a|b"',
            '"a;b"',
            old="user: pulumi@vsphere.local",
        ),
        *[
            (edited("clientId: Iv1.example", f"clientId: {text}"), "github.clientId")
            for text in ('"-x"', '"a b"', '"$(id)"', "a;b", "a/b")
        ],
        *[
            (edited("organization: example", f"organization: {text}"), "github.organization")
            for text in ('"-x"', "a/b", '"a b"', "a--b", "a_b", "a" * 40)
        ],
    ],
    "addresses that no server has": [
        *named(
            "site.vcenter",
            "127.0.0.1",
            "127.1.2.3",
            "0.0.0.0",
            "0.1.2.3",
            "255.255.255.255",
            "240.0.0.1",
            "169.254.169.254",
            "224.0.0.1",
            "localhost",
            "vc.localhost",
            "127.1",
            '"0x7f000001"',
            "2130706433",
            "172.16.20.0",
            "172.16.20.255",
            "172.16.020.1",
            '"::1"',
            old="vcenter: vcenter.example.internal",
        ),
        *[
            (
                edited("nameServers: [172.16.20.10", f"nameServers: [{text}"),
                "network.nameServers[0]",
            )
            for text in (
                "127.0.0.53",
                "0.0.0.0",
                "255.255.255.255",
                "169.254.0.1",
                "239.1.1.1",
                "172.16.20.255",
            )
        ],
        *named(
            "backup.endpoint",
            "https://127.0.0.1:9000",
            "https://0.0.0.0",
            "https://255.255.255.255",
            "https://169.254.169.254",
            "https://localhost:9000",
            "https://224.0.0.1",
            "https://172.16.20.0",
            old="endpoint: https://s3.example.com",
        ),
        *[
            (edited("tcp://logs.example.internal:5170", text), "logDestinations.services[0]")
            for text in (
                "tcp://127.0.0.1:5170",
                "tcp://0.0.0.0:1",
                "udp://255.255.255.255:1",
                "tcp://localhost:1",
                "tcp://a:0",
                "tcp://a:65536",
                "tcp://a:1/b",
                "tcp://u@a:1",
                "tcp://a:1?b",
            )
        ],
        *named(
            "network.cidr",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "224.0.0.0/24",
            "240.0.0.0/24",
            "0.0.0.0/8",
            "0.0.0.0/0",
            old="cidr: 172.16.20.0/24",
        ),
        *named(
            "network.gateway",
            "172.16.20.0",
            "172.16.20.255",
            "127.0.0.1",
            "0.0.0.0",
            "172.16.21.1",
            old="gateway: 172.16.20.1",
        ),
    ],
    "hosts inside the platform's own networks": [
        *named(
            "network.pools[0]",
            "https://172.16.20.120:9000",
            "https://172.16.20.150",
            old="endpoint: https://s3.example.com",
        ),
        *named(
            "network.services",
            "https://10.96.0.1",
            "https://10.111.255.254:9000",
            old="endpoint: https://s3.example.com",
        ),
        *named(
            "network.pods",
            "https://10.244.1.1/a/b",
            old="repositoryUrl: https://github.com/example/platform",
        ),
        (edited("tcp://logs.example.internal:5170", "tcp://10.97.0.5:1"), "network.services"),
        (edited("udp://172.16.20.11:5171", "udp://172.16.20.250:5171"), "network.vip"),
        (edited("host: esxi01.example.internal", "host: 172.16.20.52"), "machines[1].address"),
        (
            edited(
                "vcenter: vcenter.example.internal", "vcenter: a.b\n    imageFactory: 10.96.3.3:80"
            ),
            "network.services",
        ),
    ],
    "domains beside the certificate, or twice": [
        *[
            (edited("domain: argocd.platform.example.com", f"domain: {text}"), "argocd.domain")
            for text in (
                "argocd.example.com",
                "a.b.platform.example.com",
                "platform.example.com.evil.org",
                "xplatform.example.com",
                "argocd.platform.example.org",
                "10.0.0.1",
                "argocd",
                "Argocd.platform.example.com",
                "argocd_.platform.example.com",
                '"*.platform.example.com"',
            )
        ],
        *[
            (edited("172.16.20.100 }", f"172.16.20.100, dashboardDomain: {text} }}"), key)
            for text, key in (
                ("argocd.platform.example.com", "argocd.domain"),
                ("traefik.example.com", "traefik.dashboardDomain"),
                ("a.traefik.platform.example.com", "traefik.dashboardDomain"),
            )
        ],
    ],
    "control planes on one host, or too many": [
        *[
            (
                BASE.replace(f"name: {one},", f"name: {one}, host: esxi9.local,").replace(
                    f"name: {other},", f"name: {other}, host: esxi9.local,"
                ),
                ".host",
            )
            for one, other in (("node01", "node02"), ("node01", "node03"), ("node02", "node03"))
        ],
        (
            edited(
                "    - name: worker01",
                "".join(
                    f"    - {{ name: c{number}, address: 172.16.20.{number}, role: controlplane, {MACHINE}\n"
                    for number in range(70, 78)
                )
                + "    - name: worker01",
            ),
            "platform:machines: 11 control planes",
        ),
        (
            edited(
                "    - name: worker01",
                "".join(
                    f"    - {{ name: c{number}, address: 172.16.20.{number}, role: controlplane, {MACHINE}\n"
                    for number in range(70, 77)
                )
                + "    - name: worker01",
            ),
            "10 control planes: etcd gets slower with each, and no safer; make it 3 or 5",
        ),
        (
            edited(
                "    - name: worker01",
                "".join(
                    f"    - {{ name: w{number}, address: 172.16.20.61, role: worker, {MACHINE}\n"
                    for number in range(1200)
                )
                + "    - name: worker01",
            ),
            "machines",
        ),
    ],
    "labels and taints that are lost": [
        *[
            (edited("topology.kubernetes.io/zone: rack-1", f"{text}: a"), "machines[3].labels")
            for text in (
                "node-role.kubernetes.io/worker",
                "kubernetes.io/hostname",
                "node-role.kubernetes.io/gpu",
                "node-restriction.kubernetes.io/a",
                "k8s.io/a",
                "a.k8s.io/b",
                "kubernetes.io/role",
                "kubernetes.io/os",
                "a..b/c",
                "/a",
                "a/",
                "a/b/c",
                "-a",
                "a" * 64,
                "A.com/b",
                "a_b.com/c",
            )
        ],
        *[
            (
                edited(
                    "taints: [{ key: dedicated, value: storage, effect: NoSchedule }]",
                    f"taints: [{{ key: dedicated, value: storage, effect: NoSchedule }}, {text}]",
                ),
                "taints[1]",
            )
            for text in (
                "{ key: dedicated, value: storage, effect: NoSchedule }",
                "{ key: dedicated, effect: NoExecute }",
                "{ key: dedicated, value: x, effect: PreferNoSchedule }",
                "{ key: node.kubernetes.io/unreachable, effect: NoExecute }",
                "{ key: a, effect: noschedule }",
                "{ key: a b, effect: NoExecute }",
            )
        ],
    ],
    "schedules that cron does not know": [
        (edited('"0 * * * *"', f'"{text}"'), "services.backup.schedule")
        for text in (
            "0 24 * * *",
            "60 * * * *",
            "0 0 0 * *",
            "0 0 32 * *",
            "0 0 * 13 *",
            "0 0 * * 7",
            "0 0 * * 8",
            "*/0 * * * *",
            "5-1 * * * *",
            "* * * *",
            "* * * * * *",
            "0  * * * *",
            "a * * * *",
            "1,, * * * *",
            "@every 1s",
            "0 0 30 2 *",
            "0 0 31 4,6 *",
            "-1 * * * *",
            "1-2-3 * * * *",
            "*/5/5 * * * *",
            "CRON_TZ=UTC 0 * * * *",
            "0 0 * foo *",
            "99999999999999999999 * * * *",
        )
    ],
    "names that mean something else": [
        *named(
            "machines[0].name",
            "common,",
            "controlplane,",
            "worker,",
            "gitops,",
            old="name: node01,",
        ),
        (edited("name: storage", "name: system"), "dataDisks[0].name"),
        *[
            (
                edited(
                    "issuer: private-ca",
                    f"issuer: letsencrypt-staging, email: a@corp.net, dns: {dns}",
                ),
                "certManager.dns.keyName",
            )
            for dns in (
                f"{{ provider: rfc2136, nameServer: ns.corp.net, keyName: '{name}' }}"
                for name in ("a" * 200 + "!", "a" * 64, "a..b", ".a", "-a", "a b")
            )
        ],
        *named(
            "cluster.name",
            "a" * 33,
            "customer-platform-frankfurt-production",
            "-a",
            "a-",
            "A",
            "a.b",
            "a_b",
            old="name: prod",
        ),
        *named("site.network", "V0468-172.16.20.0/24", '"a\\\\b"', "a/b", old="network: platform"),
        *named(
            "backup.bucket",
            "a",
            "ab",
            "a" * 64,
            "Bucket",
            "a..b",
            "192.168.1.1",
            "a-.b",
            "xn--a",
            "a_b",
            "-ab",
            old="bucket: platform-prod-etcd",
        ),
    ],
}
CASES = [
    pytest.param(text, key, id=f"{kind} {number}")
    for kind, each in KINDS.items()
    for number, (text, key) in enumerate(each)
]


def check(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    begun = time.process_time()
    code = main(["check", str(path)])
    assert time.process_time() - begun < 2
    told = capsys.readouterr()
    assert code == 0 or told.out == ""
    text = told.out + told.err
    assert text.isascii()
    assert all(line.isprintable() for line in text.splitlines())
    assert not [line for line in text.splitlines() if line.lstrip().startswith("::")]
    assert "##[" not in text
    assert max(map(len, text.splitlines())) < 1000
    return code, text.replace(str(path), "FILE")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give where each test writes its stack file: one folder for some hundred of them."""
    return tmp_path_factory.mktemp("hostile") / "Pulumi.x.yaml"


def test_the_base_of_all_cases_is_good(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(BASE)
    assert check(file, capsys)[0] == 0


def test_each_kind_comes_in_at_least_five_forms() -> None:
    assert {kind for kind, each in KINDS.items() if len(each) < 5} == set()


@pytest.mark.parametrize(("text", "key"), CASES)
def test_it_is_refused_with_its_key(
    text: str, key: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(text, encoding="utf-8")
    code, told = check(file, capsys)
    assert code == 1
    assert key in told


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (BASE.encode("utf-16"), "not UTF-8"),
        (BASE.encode("utf-16-le"), "control or invisible"),
        (BASE.encode("utf-32"), "not UTF-8"),
        (BASE.encode() + b"  x:a: \xff\n", "not UTF-8"),
        (BASE.encode() + b"  x:a: \xc0\x80\n", "not UTF-8"),
        (BASE.encode() + b"  x:a: \xed\xa0\x80\n", "not UTF-8"),
        (BASE.encode() + b"\x00", "U+0000"),
        (b"\xef\xbb\xbf\xef\xbb\xbf" + BASE.encode(), "U+FEFF"),
        (BASE.encode("latin-1") + b"  x:a: \xfc\n", "not UTF-8"),
        (BASE.encode() + b'  x:a: "\\uD800"\n', "not valid YAML"),
        (BASE.encode() + b'  "x:\\uDFFF": a\n', "not valid YAML"),
    ],
)
def test_an_encoding_that_readers_see_differently_is_refused(
    content: bytes, fault: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_bytes(content)
    code, told = check(file, capsys)
    assert code == 1
    assert fault in told


# --- Secrets -----------------------------------------------------------------------------------

WORD = "hunter2"
"""No message may hold it."""


@functools.cache
def secret_cases() -> list[str]:
    jwt = f"eyJhbGciOiJub25lIn0.eyJ{WORD}In0.{WORD}"
    places = (
        ("datacenter: dc01", "datacenter: {}"),
        ("revision: main", "revision: {}"),
        ("bucket: platform-prod-etcd", "bucket: {}"),
        ("clientId: Iv1.example", "clientId: {}"),
        ("name: node01,", "name: {},"),
        ("cpus: 4,", "cpus: {},"),
        ("installDisk: /dev/sda", "installDisk: {}"),
        ("version: 1.34.1", "version: {}"),
        ("gateway: 172.16.20.1", "gateway: {}"),
        ("role: worker\n", "role: {}\n"),
    )
    tokens = (
        jwt,
        f"ghp_{WORD}AAAA",
        f"AGE-SECRET-KEY-1{WORD}",
        f"https://u:{WORD}@h/",
        f"https://{WORD}@h/",
        f"hvs.CAESI{WORD}",
        f"-----BEGIN PRIVATE KEY----- {WORD}",
        f"q8Zr{WORD}XkW1mP0sLt9VbYc",
        f"{WORD}-password",
        f"Bearer {WORD}",
    )
    quoted = [f'"{token}"' for token in tokens]
    found = [edited(old, new.format(token)) for token in quoted for old, new in places]
    keys = [
        BASE + f"  {form}\n"
        for token in quoted
        for form in (f"{token}: x", f"x:a: {{ {token}: b }}")
    ]
    return [
        *found,
        *keys,
        edited("datacenter: dc01", f"datacenter: {WORD}/x\n    password: {WORD}/x"),
        BASE + f"  vsphere:allow: https://root:{WORD}@vc/\n",
        BASE + f"  vsphere:password: [{WORD}]\n",
        BASE + f"  vsphere:tokens: {{ a: {{ b: {WORD} }} }}\n",
        BASE + f"  platform:dnsToken: {WORD}\n",
        BASE + f"  platform:dnsToken: '{WORD}\n",
        BASE + f"  platform:dnsToken: *{WORD}\n",
        BASE + f"  platform:dnsToken: !{WORD} x\n",
        BASE + f'  platform:dnsToken: "\\q{WORD}"\n',
        BASE + f"  platform:dnsToken: {{ secure: [{WORD}] }}\n",
        BASE + f"password: {WORD}\n",
        BASE + f'  platform:site: \'{{"password": "{WORD}", "user": 0{WORD}}}\'\n',
    ]


@pytest.mark.parametrize("number", range(len(secret_cases())))
def test_no_message_repeats_a_secret(
    number: int, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(secret_cases()[number])
    assert WORD not in check(file, capsys)[1]


# --- Odd, and good -----------------------------------------------------------------------------

GOOD = {
    "a byte order mark": "\ufeff" + BASE,
    "line ends of Windows": BASE.replace("\n", "\r\n"),
    "one document with its marks": "---\n" + BASE + "...\n",
    "a version of YAML": "%YAML 1.1\n---\n" + BASE,
    "keys without a namespace": BASE.replace("  platform:", "  "),
    "the old form of keys": BASE.replace("  platform:", "  platform:config:"),
    "quoted keys": BASE.replace("  platform:site:", '  "platform:site":'),
    "anchors and a merge": BASE.replace(
        f"role: controlplane, {MACHINE}", f"<<: &m {{ role: controlplane, {MACHINE} }}", 1
    ).replace(f"role: controlplane, {MACHINE}\n", "<<: *m }\n"),
    "anchors beside the settings": "machine: &m { role: controlplane, cpus: 4, memoryMiB: 8192, diskGiB: 50 }\n"
    + BASE.replace(f"role: controlplane, {MACHINE}", "<<: *m }"),
    "a section as JSON": edited(
        "platform:kubernetes:\n    version: 1.34.1",
        'platform:kubernetes: \'{"version": "1.34.1"}\'',
    ),
    "standard tags": edited("name: prod", "name: !!str prod").replace("cpus: 4", "cpus: !!int 4"),
    "numbers in quotes": edited("datastore: datastore01", 'datastore: "017"'),
    "a country's code": edited("datacenter: dc01", "datacenter: no"),
    "thousands apart": edited("memoryMiB: 8192", "memoryMiB: 8_192"),
    "names in other languages": edited("datacenter: dc01", "datacenter: Rechenzentrum Süd"),
    "names in other alphabets": edited("datacenter: dc01", "datacenter: 東京 データセンター"),
    "names in Cyrillic": edited("datacenter: dc01", "datacenter: Москва 1"),
    "names with signs": edited(
        "datacenter: dc01", 'datacenter: "R&D (Prod) #1, Bob\'s 50%25 {SSD}"'
    ),
    "an inventory path": edited("datastore: datastore01", "datastore: DatastoreCluster01/vsan 01"),
    "a Windows user": edited("user: pulumi@vsphere.local", "user: CORP\\svc-pulumi"),
    "a folder of folders": edited("folder: platform-prod", "folder: Prod VMs/K8s (Talos)"),
    "a branch of branches": edited("revision: main", "revision: release/v1.2.x+build"),
    "a commit": edited("revision: main", "revision: 9543fb9c2f7c350d7b2d418a068597f2540fbb13"),
    "a region of Ceph": edited(
        "bucket: platform-prod-etcd", "bucket: etcd.prod\n      region: RegionOne"
    ),
    "an NVMe disk": edited("installDisk: /dev/sda", "installDisk: /dev/nvme0n1"),
    "a disk by its path": edited(
        "installDisk: /dev/sda", "installDisk: /dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:0:0"
    ),
    "names of months and days": edited('"0 * * * *"', '"*/15 8-18 1,15 jan-mar mon"'),
    "a leap day": edited('"0 * * * *"', '"0 3 29 2 *"'),
    "a TSIG key": edited(
        "issuer: private-ca",
        "issuer: letsencrypt-staging, email: a@corp.net, dns: { provider: rfc2136, "
        "nameServer: ns.corp.net, keyName: acme_1.key-2.corp.net. }",
    ),
    "the domain itself": edited("domain: argocd.platform", "domain: platform"),
    "nine control planes": edited(
        "    - name: worker01",
        "".join(
            f"    - {{ name: c{number}, address: 172.16.20.{number}, role: controlplane, {MACHINE}\n"
            for number in range(70, 76)
        )
        + "    - name: worker01",
    ),
    "workers on one host": BASE.replace(
        "name: worker02,", "name: worker02, host: esxi01.example.internal,"
    ),
    "labels that a worker may set": edited(
        "topology.kubernetes.io/zone: rack-1",
        "topology.kubernetes.io/region: a, node.kubernetes.io/pool: b, example.com/c: ''",
    ),
    "a label of Kubernetes on a control plane": edited(
        "name: node01,", "name: node01, labels: { node-role.kubernetes.io/gpu: '' },"
    ),
    "an emoji in a comment": BASE + "# 👩\u200d💻 fixed\n",
    "another namespace": BASE + "  vsphere:apiTimeout: 10\n",
    "an empty section": BASE + "  aws:region:\n",
    "the largest disk": edited("sizeGiB: 500", "sizeGiB: 63488"),
    "a long list": BASE + "  x:a: [" + "1, " * 5000 + "1]\n",
}


@pytest.mark.parametrize("name", GOOD)
def test_an_odd_but_good_file_is_accepted(
    name: str, file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_WORLD", str(file.parent))
    file.write_bytes(GOOD[name].encode("utf-8"))
    code = main(["check", str(file)])
    assert capsys.readouterr().err == ""
    assert code == 0
