"""Configuration: what Kubernetes no longer serves from a minor version on.

From https://kubernetes.io/docs/reference/using-api/deprecation-guide/ and the releases that the
types of k8s.io/api name (APILifecycleRemoved); lab/internal/charts/removed_test.go holds the table
against these. Only what a Talos that the stack knows can meet (`config.versions`).
"""

from __future__ import annotations

from dataclasses import dataclass

from config.versions import parse

GUIDE = "https://kubernetes.io/docs/reference/using-api/deprecation-guide/"


@dataclass(frozen=True)
class RemovedApi:
    """An API version of some kinds, and the minor version that serves it no longer."""

    group: str
    version: str
    kinds: tuple[str, ...]
    removed: str
    replacement: str
    """The API version to write instead, such as `storage.k8s.io/v1`."""

    @property
    def api_version(self) -> str:
        """As a manifest writes it."""
        return f"{self.group}/{self.version}"


_VALIDATING = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")

REMOVED_APIS = (
    RemovedApi(
        "flowcontrol.apiserver.k8s.io",
        "v1beta3",
        ("FlowSchema", "PriorityLevelConfiguration"),
        "1.32",
        "flowcontrol.apiserver.k8s.io/v1",
    ),
    RemovedApi(
        "admissionregistration.k8s.io",
        "v1alpha1",
        _VALIDATING,
        "1.32",
        "admissionregistration.k8s.io/v1",
    ),
    RemovedApi(
        "admissionregistration.k8s.io",
        "v1beta1",
        _VALIDATING,
        "1.34",
        "admissionregistration.k8s.io/v1",
    ),
    RemovedApi(
        "storage.k8s.io", "v1alpha1", ("VolumeAttributesClass",), "1.35", "storage.k8s.io/v1"
    ),
    RemovedApi(
        "storage.k8s.io", "v1beta1", ("VolumeAttributesClass",), "1.37", "storage.k8s.io/v1"
    ),
    RemovedApi(
        "certificates.k8s.io",
        "v1alpha1",
        ("ClusterTrustBundle",),
        "1.37",
        "certificates.k8s.io/v1beta1",
    ),
    RemovedApi(
        "networking.k8s.io",
        "v1beta1",
        ("IPAddress", "ServiceCIDR"),
        "1.37",
        "networking.k8s.io/v1",
    ),
)


def removed(old: str, new: str) -> list[RemovedApi]:
    """List what is served in the old minor version, such as `1.34`, and not in the new one."""
    return [one for one in REMOVED_APIS if parse(old) < parse(one.removed) <= parse(new)]
