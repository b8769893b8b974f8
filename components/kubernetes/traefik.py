"""Layer Traefik: HTTPS from outside, at one fixed address.

Certificates come from cert-manager as a Secret: Traefik's own ACME would give each replica an
account and certificates of its own (docs/decisions/0008-certificates-by-cert-manager.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pulumi

from components.kubernetes import issuance
from components.kubernetes.cert_manager import CERTIFICATE_API
from components.kubernetes.guardrails import ROUTE_PRIORITY
from components.kubernetes.isolated_namespace import IsolatedNamespace, anybody, metrics
from components.kubernetes.objects import KubernetesObject
from components.kubernetes.release import install
from config.charts import CRITICAL, ChartPlan, Values, resources, spread
from config.settings import API_PORT

if TYPE_CHECKING:
    from collections.abc import Collection

    from config.settings import CertManager as CertManagerSettings
    from config.settings import Traefik as TraefikSettings

NAMESPACE = "traefik"
REPOSITORY = "https://traefik.github.io/charts"
ROUTE_API = "traefik.io/v1alpha1"
PODS = {"app.kubernetes.io/name": "traefik"}
WEB_PORT, SECURE_PORT, METRICS_PORT = 8000, 8443, 9100
WILDCARD = "wildcard"
"""The certificate for *.DOMAIN, which all connections get that ask for nothing else."""
BARE = "domain"
"""The certificate for DOMAIN itself. Both are proven by one DNS record, so cert-manager proves them
in turn (pkg/scheduler), and waits a minute for each: `up` waits only for what it serves."""
GATEWAY = "platform"
DASHBOARD_USER = "admin"

CIPHERS = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
]
"""For TLS 1.2; those of TLS 1.3 are all good and not for choosing (Mozilla, intermediate)."""


def plan(traefik: TraefikSettings) -> ChartPlan:
    """Plan the chart."""
    return ChartPlan(
        "traefik", traefik.repository or REPOSITORY, traefik.version, NAMESPACE, values(traefik)
    )


def values(traefik: TraefikSettings) -> Values:
    """Give the chart's values."""
    return {
        "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
        "deployment": {"replicas": traefik.replicas},
        "podDisruptionBudget": {"enabled": True, "maxUnavailable": 1},
        "priorityClassName": CRITICAL,
        "topologySpreadConstraints": spread(PODS),
        "resources": resources("100m", "128Mi", "512Mi"),
        "ingressClass": {"enabled": True, "isDefaultClass": True, "name": "traefik"},
        "gatewayClass": {"enabled": True, "name": "traefik"},
        # Made below, where its certificate is.
        "gateway": {"enabled": False},
        "providers": {
            # A route may use what is in its own namespace only.
            "kubernetesCRD": {"enabled": True, "allowCrossNamespace": False},
            "kubernetesIngress": {"enabled": True, "publishedService": {"enabled": True}},
            "kubernetesGateway": {
                "enabled": True,
                "statusAddress": {"service": {"enabled": True}},
            },
        },
        "api": {"dashboard": True, "insecure": False},
        # The chart's own route has no password.
        "ingressRoute": {"dashboard": {"enabled": False}},
        "ports": {
            "web": {
                "http": {
                    "redirections": {
                        "entryPoint": {"to": "websecure", "scheme": "https", "permanent": True}
                    }
                }
            },
            "websecure": {"http": {"tls": {"enabled": True}}},
        },
        "service": {
            "annotations": {"metallb.io/loadBalancerIPs": str(traefik.address)},
            "spec": {
                # Keeps the clients' addresses for the access log. The API server gives it one port
                # for health checks of outside load balancers; no traffic is served there.
                "externalTrafficPolicy": "Local",
                "allocateLoadBalancerNodePorts": False,
            },
        },
        "logs": {
            "general": {"format": "json", "level": "INFO"},
            "access": {"enabled": True, "format": "json"},
        },
        "metrics": {"prometheus": {"service": {"enabled": True}}},
    }


class Traefik(pulumi.ComponentResource):
    """Ingress, with the platform's certificate as the default one."""

    entrance: pulumi.Resource
    """There once Traefik answers, and applications can ask for certificates. The platform's own may
    be issued minutes later; until then connections get one that nobody trusts."""

    def __init__(  # noqa: PLR0913 its chart, the platform's certificate, and a secret
        self,
        name: str,
        traefik: TraefikSettings,
        chart: ChartPlan,
        kubeconfig: pulumi.Output[str],
        *,
        addresses: pulumi.Resource,
        issuers: pulumi.Resource,
        certificates: CertManagerSettings,
        served: Collection[str] = (),
        dashboard_password: pulumi.Output[str] | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Install it, with certificates for the platform's domain, as `certificates` says.

        Its Service gets its address from `addresses`, who issues is one of `issuers`. `served` are
        the host names of the platform's own pages.
        """
        super().__init__("platform:kubernetes:Traefik", name, None, opts)
        namespace = IsolatedNamespace(NAMESPACE, "restricted", self)
        namespace.allow(
            "ingress",
            PODS,
            ingress=[anybody(WEB_PORT, SECURE_PORT), metrics(METRICS_PORT)],
            # Whatever it serves runs in some namespace, on any port.
            egress=[{"to": [{"namespaceSelector": {}}]}, anybody(API_PORT)],
        )
        domain = certificates.domain
        issued = self._certificates(certificates, served, kubeconfig, namespace, issuers)
        # Its definitions are the foundation's, which keeps them as new as the chart.
        release = install(chart, kubeconfig, namespace.options(addresses), skip_crds=True)
        self.entrance = self._ciphers(namespace.options(release, issuers))
        after = namespace.options(release, issued)
        _object("TLSStore", "default", {"defaultCertificate": {"secretName": WILDCARD}}, after)
        self._gateway(domain, after)
        if traefik.dashboard_domain is not None and dashboard_password is not None:
            secret = namespace.secret(
                "dashboard-user",
                {"username": DASHBOARD_USER, "password": dashboard_password},
                kind="kubernetes.io/basic-auth",
            )
            self._dashboard(traefik.dashboard_domain, namespace.options(release, secret))
        self.register_outputs(
            {
                "namespace": NAMESPACE,
                "version": chart.version,
                "address": str(traefik.address),
                "domain": domain,
            }
        )

    def _certificates(
        self,
        certificates: CertManagerSettings,
        served: Collection[str],
        kubeconfig: pulumi.Output[str],
        namespace: IsolatedNamespace,
        issuers: pulumi.Resource,
    ) -> pulumi.Output[pulumi.Resource]:
        """Ask for both certificates; gives what is there once those for `served` are issued."""

        def once_issued(name: str, certificate: pulumi.Resource) -> pulumi.Output[pulumi.Resource]:
            return issuance.once_issued(
                name, certificates, kubeconfig, namespace=NAMESPACE, after=certificate, parent=self
            ).opened

        domain, issuer = certificates.domain, certificates.issuer
        wildcard = _certificate(WILDCARD, f"*.{domain}", issuer, namespace.options(issuers))
        issued = once_issued(WILDCARD, wildcard)
        bare = _certificate(BARE, domain, issuer, namespace.options(issued))
        return once_issued(BARE, bare) if domain in served else issued

    @staticmethod
    def _ciphers(opts: pulumi.ResourceOptions) -> KubernetesObject:
        """Set what every connection gets that asks for nothing else."""
        return _object(
            "TLSOption",
            "default",
            {
                "minVersion": "VersionTLS12",
                "cipherSuites": CIPHERS,
                "curvePreferences": ["X25519", "CurveP256", "CurveP384"],
            },
            opts,
        )

    @staticmethod
    def _gateway(domain: str, opts: pulumi.ResourceOptions) -> None:
        """Make the gateway that HTTPRoutes of all namespaces attach to.

        A listener without its certificate serves nothing; the others do. (In a TLSStore one Secret
        that is missing takes all of its certificates away: pkg/provider/kubernetes/crd of Traefik.)
        """
        KubernetesObject(
            "gateway.networking.k8s.io/v1",
            "Gateway",
            "gateway-platform",
            metadata={"name": GATEWAY, "namespace": NAMESPACE},
            spec={
                "gatewayClassName": "traefik",
                "listeners": [
                    _listener("websecure", f"*.{domain}", WILDCARD),
                    _listener("domain", domain, BARE),
                ],
            },
            opts=opts,
        )

    @staticmethod
    def _dashboard(domain: str, opts: pulumi.ResourceOptions) -> None:
        """Serve the dashboard behind a password."""
        _object(
            "Middleware", "dashboard-password", {"basicAuth": {"secret": "dashboard-user"}}, opts
        )
        _object(
            "IngressRoute",
            "dashboard",
            {
                "entryPoints": ["websecure"],
                "routes": [
                    {
                        "kind": "Rule",
                        "match": f"Host(`{domain}`)",
                        "priority": ROUTE_PRIORITY,
                        "middlewares": [{"name": "dashboard-password"}],
                        "services": [{"kind": "TraefikService", "name": "api@internal"}],
                    }
                ],
            },
            opts,
        )


def _certificate(
    name: str, host: str, issuer: str, opts: pulumi.ResourceOptions
) -> KubernetesObject:
    """Ask for a certificate, whose Secret has the same name."""
    return KubernetesObject(
        CERTIFICATE_API,
        "Certificate",
        f"certificate-{name}",
        metadata={"name": name, "namespace": NAMESPACE},
        spec={
            "secretName": name,
            "dnsNames": [host],
            "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
            "issuerRef": {"kind": "ClusterIssuer", "name": issuer},
        },
        opts=opts,
    )


def _listener(name: str, host: str, certificate: str) -> dict[str, Any]:
    return {
        "name": name,
        "hostname": host,
        "protocol": "HTTPS",
        # Traefik matches listeners with its entry points by their inner ports.
        "port": SECURE_PORT,
        "tls": {"mode": "Terminate", "certificateRefs": [{"name": certificate}]},
        "allowedRoutes": {"namespaces": {"from": "All"}},
    }


def _object(
    kind: str, name: str, spec: dict[str, Any], opts: pulumi.ResourceOptions
) -> KubernetesObject:
    """Make one of Traefik's own objects in its namespace."""
    return KubernetesObject(
        ROUTE_API,
        kind,
        f"traefik-{kind.lower()}-{name}",
        metadata={"name": name, "namespace": NAMESPACE},
        spec=spec,
        opts=opts,
    )
