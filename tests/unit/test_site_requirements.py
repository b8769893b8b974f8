"""The page for a site's colleagues names every host that the platform reaches."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import config
from components.kubernetes import backup, cert_manager, metrics_server
from components.layers import plans
from config import Settings, gateway_api
from tests.unit.recorder import ROOT, production

PAGE = ROOT / "docs" / "site-requirements.md"
DOCKER_HUB = "docker.io"


def settings() -> Settings:
    return config.parse(production())


def registry(image: str) -> str:
    """Give the registry of an image; one that names none is Docker Hub's."""
    first, slash, _ = image.partition("/")
    return first if slash and ("." in first or ":" in first) else DOCKER_HUB


def missing(hosts: set[str]) -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    return sorted(host for host in hosts if f"`{host}`" not in text)


def test_the_page_names_every_chart_repository() -> None:
    repositories = {plan.repository for plan in plans(settings())}
    assert missing({str(urlsplit(one).hostname) for one in repositories}) == []


def test_the_page_names_what_the_settings_name() -> None:
    model = settings()
    dns = model.services.cert_manager.dns if model.services.cert_manager else None
    assert dns is not None
    assert missing({model.site.vcenter, model.site.image_factory}) == []
    assert missing({str(one) for one in dns.resolvers}) == []
    assert missing({str(model.network.pods), str(model.network.vip)}) == []


def test_the_page_names_where_certificates_definitions_and_our_own_images_come_from() -> None:
    hosts = {str(urlsplit(one).hostname) for one in cert_manager.ACME_SERVERS.values()}
    hosts.add(str(urlsplit(gateway_api.URL).hostname))
    own = (backup.IMAGE, backup.METRICS_IMAGE, metrics_server.APPROVER_IMAGE)
    assert missing(hosts | {registry(one) for one in own}) == []


def test_a_host_that_the_page_does_not_name_would_be_found() -> None:
    assert missing({"registry.example.net"}) == ["registry.example.net"]
    assert registry("koalaman/shellcheck:v1") == DOCKER_HUB
    assert registry("quay.io/cilium/cilium:v1") == "quay.io"


def test_the_first_install_sends_the_reader_there() -> None:
    page = Path(ROOT, "docs", "procedures", "first-install.md").read_text(encoding="utf-8")
    assert "(../site-requirements.md)" in page
