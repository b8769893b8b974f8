"""Layer cert-manager: who issues certificates, and the platform's own wildcard certificate.

An ACME server outside cannot reach the platform, so domains are proven by DNS (DNS-01). The private
authority is there always: a platform without a public domain uses it, and so do drills. A drill
(`cluster.drill`) has no production issuer at all: Let's Encrypt allows five certificates a week
for the same names, and a rebuild after a fire must not find them used up.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pulumi

from components.kubernetes import dns_solver, outside
from components.kubernetes.admission import once_taken
from components.kubernetes.isolated_namespace import (
    DNS_PORT,
    IsolatedNamespace,
    anybody,
    metrics,
    ports,
)
from components.kubernetes.objects import KubernetesObject, Metadata
from components.kubernetes.release import install
from config.charts import CRITICAL, ChartPlan, Values, resources, spread
from config.settings import API_PORT
from config.values import split_url
from config.way_out import ANYWHERE, HTTPS_PORT, WayOut

if TYPE_CHECKING:
    from config.settings import CertManager as CertManagerSettings
    from config.settings import Cluster as ClusterSettings

NAMESPACE = "cert-manager"
REPOSITORY = "https://charts.jetstack.io"
CERTIFICATE_API = "cert-manager.io/v1"
WEBHOOK_PORT = 10250
METRICS_PORT = 9402
PRIVATE = "private-ca"
SELF_SIGNED = "self-signed"
ACME_SERVERS = {
    "letsencrypt-production": "https://acme-v02.api.letsencrypt.org/directory",
    "letsencrypt-staging": "https://acme-staging-v02.api.letsencrypt.org/directory",
}
TEN_YEARS = "87600h"
OWN_SERVER = "acme"
DNS_TOKEN, DNS_KEY, DNS_ID = "dns-token", "token", "access-key"

PROBE = {
    "apiVersion": CERTIFICATE_API,
    "kind": "Certificate",
    "metadata": {"name": "probe", "namespace": NAMESPACE},
    "spec": {
        "secretName": "probe",
        "dnsNames": ["probe.invalid"],
        "issuerRef": {"kind": "ClusterIssuer", "name": PRIVATE},
    },
}
"""Never made: asks whether the webhook answers."""


def plan(cert_manager: CertManagerSettings, way: WayOut) -> ChartPlan:
    """Plan the chart; `way` is the platform's way out of its site."""
    return ChartPlan(
        "cert-manager",
        cert_manager.repository or REPOSITORY,
        cert_manager.version,
        NAMESPACE,
        values(cert_manager, way),
    )


def values(cert_manager: CertManagerSettings, way: WayOut) -> Values:
    """Give the chart's values; `way` is the platform's way out of its site."""
    # The site's own name servers may answer for the domain from inside, without the challenge.
    resolvers: Values = {}
    if cert_manager.dns is not None:
        asked = ",".join(f"{one}:{DNS_PORT}" for one in cert_manager.dns.resolvers)
        resolvers = {"dns01RecursiveNameservers": asked, "dns01RecursiveNameserversOnly": True}
    budget = {"podDisruptionBudget": {"enabled": True, "maxUnavailable": 1}}

    def labels(component: str) -> list[Values]:
        return spread({"app.kubernetes.io/component": component})

    return {
        "global": {"priorityClassName": CRITICAL, "leaderElection": {"namespace": NAMESPACE}},
        # Kept when the release goes: with the definitions all certificates would go.
        "crds": {"enabled": True, "keep": True},
        "replicaCount": 2,
        **budget,
        "resources": resources("25m", "64Mi", "256Mi"),
        "topologySpreadConstraints": labels("controller"),
        **resolvers,
        **way.variables(),
        **_trust(way),
        "enableCertificateOwnerRef": False,
        "webhook": {
            "replicaCount": 2,
            **budget,
            "resources": resources("10m", "32Mi", "128Mi"),
            "topologySpreadConstraints": labels("webhook"),
        },
        "cainjector": {
            "replicaCount": 2,
            **budget,
            "resources": resources("10m", "64Mi", "256Mi"),
            "topologySpreadConstraints": labels("cainjector"),
        },
        # The gate after the release asks the webhook itself, without a job and its rights.
        "startupapicheck": {"enabled": False},
        "prometheus": {"enabled": True},
    }


def _trust(way: WayOut) -> Values:
    """Let the controller trust the company's authorities: ACME and DNS are asked by it alone."""
    if way.trusted_roots is None:
        return {}
    return {
        "extraEnv": WayOut(trusted_roots=way.trusted_roots).environment(),
        "volumes": way.volumes,
        "volumeMounts": way.mounts,
        "podAnnotations": way.annotations,
    }


class CertManager(pulumi.ComponentResource):
    """Issuers, ready to be asked."""

    def __init__(  # noqa: PLR0913 its chart, its cluster, and two secrets
        self,
        name: str,
        cert_manager: CertManagerSettings,
        chart: ChartPlan,
        kubeconfig: pulumi.Output[str],
        *,
        cluster: ClusterSettings,
        way: WayOut,
        dns_token: pulumi.Output[str] | None = None,
        dns_access_key: pulumi.Output[str] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Install it, then its issuers.

        `dns_token` proves the domain to an ACME server; `dns_access_key` is its id, for Route 53.
        """
        super().__init__("platform:kubernetes:CertManager", name, None, opts)
        namespace = IsolatedNamespace(NAMESPACE, "restricted", self)
        _open(namespace, cert_manager, way)
        roots = outside.authorities(way, namespace)
        release = install(chart, kubeconfig, namespace.options(*roots))
        after = once_taken(
            "cert-manager-webhook",
            {"version": chart.version},
            PROBE,
            release=release,
            kubeconfig=kubeconfig,
            parent=self,
        )
        self._private_authority(cluster.name, after)
        if dns_token is not None:
            secret = {DNS_KEY: dns_token}
            if dns_access_key is not None:
                secret[DNS_ID] = dns_access_key
            token = pulumi.ResourceOptions(depends_on=[namespace.secret(DNS_TOKEN, secret)])
            with_token = pulumi.ResourceOptions.merge(after, token)
            if cert_manager.dns is not None and cert_manager.dns.provider == "webhook":
                solver_there = dns_solver.once_there(
                    cert_manager.dns, kubeconfig, after=release, parent=self
                )
                with_token = pulumi.ResourceOptions.merge(with_token, solver_there)
            self._acme(cert_manager, acme_servers(cert_manager, cluster), with_token)
        self.register_outputs(
            {
                "namespace": NAMESPACE,
                "version": chart.version,
                "issuer": cert_manager.issuer,
                "domain": cert_manager.domain,
            }
        )

    def _private_authority(self, cluster: str, opts: pulumi.ResourceOptions) -> None:
        """Make an authority of the platform's own: self-signed once, for ten years."""
        self_signed = issuer(SELF_SIGNED, {"selfSigned": {}}, opts)
        authority = KubernetesObject(
            CERTIFICATE_API,
            "Certificate",
            "private-authority",
            metadata={
                "name": PRIVATE,
                "namespace": NAMESPACE,
                "annotations": {"pulumi.com/waitFor": "condition=Ready"},
            },
            spec={
                "isCA": True,
                "commonName": f"{cluster} platform authority",
                "secretName": PRIVATE,
                "duration": TEN_YEARS,
                "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Never"},
                "issuerRef": {"kind": "ClusterIssuer", "name": SELF_SIGNED},
            },
            opts=pulumi.ResourceOptions(parent=self, depends_on=[self_signed]),
        )
        issuer(
            PRIVATE,
            {"ca": {"secretName": PRIVATE}},
            pulumi.ResourceOptions(parent=self, depends_on=[authority]),
        )

    @staticmethod
    def _acme(
        cert_manager: CertManagerSettings,
        servers: Mapping[str, str],
        opts: pulumi.ResourceOptions,
    ) -> None:
        """Make the ACME servers' issuers.

        Only the one of the settings is waited for: the other one's directory may be down.
        """
        authority = {}
        if cert_manager.acme is not None and cert_manager.acme.ca is not None:
            bundle = base64.b64encode(cert_manager.acme.ca.encode()).decode()
            authority = {"caBundle": bundle}
        for name, server in servers.items():
            acme = {
                "server": server,
                **authority,
                "email": cert_manager.email,
                "privateKeySecretRef": {"name": f"{name}-account"},
                "solvers": [{"dns01": solver(cert_manager)}],
            }
            issuer(name, {"acme": acme}, opts, wait=name == cert_manager.issuer)


def acme_servers(cert_manager: CertManagerSettings, cluster: ClusterSettings) -> dict[str, str]:
    """Give the directories of the ACME servers, by issuer.

    Of one's own server only that one; else both of Let's Encrypt, so that a trial needs no change
    of the platform, but in a drill.
    """
    if not cert_manager.uses_acme:
        return {}
    if cert_manager.acme is not None:
        return {OWN_SERVER: cert_manager.acme.directory}
    return {
        name: server
        for name, server in ACME_SERVERS.items()
        if not (cluster.drill and name == "letsencrypt-production")
    }


def issuer(
    name: str, spec: dict[str, Any], opts: pulumi.ResourceOptions, *, wait: bool = True
) -> KubernetesObject:
    """Make a ClusterIssuer, and with `wait` wait until it is ready."""
    metadata: Metadata = {"name": name}
    if wait:
        metadata["annotations"] = {"pulumi.com/waitFor": "condition=Ready"}
    return KubernetesObject(
        CERTIFICATE_API,
        "ClusterIssuer",
        f"issuer-{name}",
        metadata=metadata,
        spec=spec,
        opts=opts,
    )


def solver(cert_manager: CertManagerSettings) -> dict[str, Any]:
    """Say how the domain is proven; what it takes of secrets is in the Secret."""
    dns = cert_manager.dns
    reference = {"name": DNS_TOKEN, "key": DNS_KEY}
    if dns is not None and dns.provider == "rfc2136":
        return {
            "rfc2136": {
                "nameserver": dns.name_server,
                "tsigKeyName": dns.key_name,
                "tsigAlgorithm": dns.algorithm or "HMACSHA256",
                "tsigSecretSecretRef": reference,
            }
        }
    if dns is not None and dns.provider == "route53":
        zone = {"hostedZoneID": dns.hosted_zone_id} if dns.hosted_zone_id else {}
        return {
            "route53": {
                "region": dns.region,
                **zone,
                "accessKeyIDSecretRef": reference | {"key": DNS_ID},
                "secretAccessKeySecretRef": reference,
            }
        }
    if dns is not None and dns.provider == "webhook":
        return {
            "webhook": {
                "groupName": dns.group_name,
                "solverName": dns.solver_name,
                **({} if dns.config is None else {"config": dns.config}),
            }
        }
    return {"cloudflare": {"apiTokenSecretRef": reference}}


def _places(cert_manager: CertManagerSettings) -> Iterator[tuple[str, int]]:
    """Give what is asked by HTTPS: the ACME server, and who serves the domain."""
    if cert_manager.acme is not None and (url := split_url(cert_manager.acme.directory)):
        yield url.host, url.port or HTTPS_PORT
    yield ANYWHERE, HTTPS_PORT


def _open(namespace: IsolatedNamespace, cert_manager: CertManagerSettings, way: WayOut) -> None:
    """Open what each part needs; no proxy knows the protocol of name servers."""
    own = [API_PORT, DNS_PORT]
    if cert_manager.dns is not None and cert_manager.dns.name_server is not None:
        _, _, port = cert_manager.dns.name_server.partition(":")
        own.append(int(port or DNS_PORT))
    namespace.allow(
        "controller",
        {"app.kubernetes.io/component": "controller"},
        ingress=[metrics(METRICS_PORT)],
        egress=[
            *outside.egress(way, list(_places(cert_manager)), *own),
            {"ports": ports(DNS_PORT, protocol="UDP")},
        ],
    )
    namespace.allow(
        "cainjector",
        {"app.kubernetes.io/component": "cainjector"},
        ingress=[metrics(METRICS_PORT)],
        egress=[anybody(API_PORT)],
    )
    namespace.allow(
        "webhook",
        {"app.kubernetes.io/component": "webhook"},
        ingress=[anybody(WEBHOOK_PORT), metrics(METRICS_PORT)],
        egress=[anybody(API_PORT)],
    )
