"""Waiting for a webhook: every answer opens, every failure on the way is waited out."""

import pytest

from clients.kubernetes_api import KubernetesApi
from components.kubernetes import cert_manager, metallb
from components.kubernetes.admission import SECONDS, AdmissionError, collection, wait_accepted
from tests.unit.hand_clock import Time
from tests.unit.test_kubernetes_api import kubeconfig, server

pytestmark = pytest.mark.usefixtures("without_tls")


def test_the_wait_ends_once_the_webhook_answers() -> None:
    time = Time()
    with server([500, 404, 201]) as (address, paths):
        wait_accepted(KubernetesApi(kubeconfig(address)), metallb.PROBE, time.clock())
    assert (
        paths
        == ["/apis/metallb.io/v1beta1/namespaces/metallb-system/ipaddresspools?dryRun=All"] * 3
    )


@pytest.mark.parametrize("status", [400, 403, 409, 422])
def test_a_refusal_is_an_answer_too(status: int) -> None:
    with server([status]) as (address, paths):
        wait_accepted(KubernetesApi(kubeconfig(address)), cert_manager.PROBE, Time().clock())
    assert len(paths) == 1


def test_a_webhook_that_never_answers_is_named_with_what_the_api_said() -> None:
    time = Time()
    body = b'{"message": "failed calling webhook \\"ipaddresspoolvalidation\\""}'
    with server([500], body) as (address, _), pytest.raises(AdmissionError) as caught:
        wait_accepted(KubernetesApi(kubeconfig(address)), metallb.PROBE, time.clock())
    assert str(caught.value) == (
        "IPAddressPool in metallb-system: the API server accepts none after 180 s: failed calling "
        'webhook "ipaddresspoolvalidation"; look at the pods in metallb-system that define or '
        "check it, then run `pulumi up` again"
    )
    assert time.now >= SECONDS


def test_cluster_wide_kinds_have_no_namespace_in_their_path() -> None:
    probe = {"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "probe"}}
    assert collection(probe) == "/apis/example.com/v1/things"
