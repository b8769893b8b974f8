"""Waiting for the platform's certificate: what a challenge says is told with its key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from clients.kubernetes_api import ApiError, KubernetesApi
from components.kubernetes.issuance import (
    ASKING_SECONDS,
    LASTING_SECONDS,
    MINUTES,
    IssuanceError,
    wait_issued,
)
from config.settings import CertManager
from tests.unit.hand_clock import Time

CERTIFICATE = "/apis/cert-manager.io/v1/namespaces/traefik/certificates/wildcard"
CHALLENGES = "/apis/acme.cert-manager.io/v1/namespaces/traefik/challenges"
PRESENTED = (
    "/api/v1/namespaces/traefik/events?fieldSelector=involvedObject.kind=Challenge,"
    "involvedObject.name=wildcard-1,reason=Presented"
)
REFUSAL = (
    "while attempting to find Zones for domain _acme-challenge.platform.example.com.\n"
    'while querying the Cloudflare API for GET "/zones?name=com" \n'
    "\t Error: 9109: Invalid access token"
)
PROVIDERS: dict[str, dict[str, Any]] = {
    "cloudflare": {},
    "rfc2136": {"nameServer": "192.0.2.1", "keyName": "acme"},
    "route53": {"region": "eu-central-1"},
}


def settings(provider: str = "cloudflare") -> CertManager:
    """Give settings with who serves the domain."""
    return CertManager.model_validate(
        {
            "issuer": "letsencrypt-production",
            "domain": "platform.example.com",
            "email": "platform@example.com",
            "dns": {"provider": provider, **PROVIDERS[provider]},
        }
    )


def certificate(
    ready: str = "False", *, seen: int = 1, issuing: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Give a Certificate of the second generation when `seen` is 2, else of the first."""
    conditions = [
        {
            "type": "Ready",
            "status": ready,
            "observedGeneration": seen,
            "message": "Issuing certificate as Secret does not exist",
        }
    ]
    if issuing is not None:
        conditions.append({"type": "Issuing", **issuing})
    return {"metadata": {"generation": 1}, "status": {"conditions": conditions}}


def challenge(reason: str, *, presented: bool = False) -> dict[str, Any]:
    """Give the list of one challenge that says why it waits."""
    one = {
        "metadata": {"name": "wildcard-1"},
        "spec": {"dnsName": "platform.example.com"},
        "status": {"reason": reason, "presented": presented},
    }
    return {"items": [one]}


class _Api:
    """Answers from a function of the path and of the time."""

    def __init__(self, answer: Callable[[str], Any], changes: Callable[[str], None]) -> None:
        self.answer = answer
        self.changes = changes

    def merge(self, path: str, body: dict[str, Any]) -> None:
        assert list(body) == ["metadata"]
        self.changes(path)

    def find(self, path: str) -> Any:
        found = self.answer(path)
        if isinstance(found, Exception):
            raise found
        return found


def wait(
    answer: Callable[[str, float], Any],
    provider: str = "cloudflare",
    time: Time | None = None,
    changes: Callable[[str, float], None] = lambda _path, _now: None,
) -> Time:
    """Wait with an API that answers by the path and by the seconds that have gone."""
    time = time or Time()
    clock = time
    api = cast(
        "KubernetesApi",
        _Api(lambda path: answer(path, clock.now), lambda path: changes(path, clock.now)),
    )
    wait_issued(api, "traefik/wildcard", settings(provider), time.clock())
    return time


def refused(reason: str, provider: str = "cloudflare") -> tuple[str, float]:
    """Give what the wait ends with while a challenge says this, and when."""
    time = Time()
    answers = {CERTIFICATE: certificate(), CHALLENGES: challenge(reason)}
    with pytest.raises(IssuanceError) as caught:
        wait(lambda path, _: answers.get(path), provider, time)
    return str(caught.value), time.now


def test_it_ends_once_the_certificate_is_ready() -> None:
    def answer(path: str, now: float) -> Any:
        if now < 5:
            return ApiError("no connection")
        if now < 10:
            return None
        waits = certificate(), challenge("Waiting for DNS-01 challenge propagation")
        return certificate("True") if now > 100 else waits[path == CHALLENGES]

    assert 100 < wait(answer).now < 120


def test_a_certificate_of_earlier_settings_is_not_the_one_that_is_waited_for() -> None:
    def answer(path: str, now: float) -> Any:
        if path == CHALLENGES:
            return {"items": []}
        return certificate("True", seen=1 if now > 60 else 0)

    assert wait(answer).now > 60


def test_a_token_that_cloudflare_goes_on_refusing_is_named_with_its_key_and_the_fix() -> None:
    message, took = refused(REFUSAL)
    assert message == (
        "platform:dnsToken: cloudflare refuses it (while attempting to find Zones for domain "
        "_acme-challenge.platform.example.com. while querying the Cloudflare API for GET "
        '"/zones?name=com" Error: 9109: Invalid access token); make an API token that may read '
        "the zone and edit its DNS (Zone: Read, DNS: Edit), set it with `pulumi config set "
        "--secret platform:dnsToken`, then `pulumi up` again"
    )
    assert LASTING_SECONDS <= took < MINUTES * 60 / 2


@pytest.mark.parametrize(
    ("provider", "reason", "words"),
    [
        ("rfc2136", "DNS update failed. Server replied: NOTAUTH", "TSIG key's secret"),
        ("rfc2136", "DNS update failed: dns: bad authentication", "`keyName` and `algorithm`"),
        ("route53", "operation error STS: AccessDenied: no", "platform:dnsAccessKey"),
        ("cloudflare", "Error: 10000: Authentication error", "Zone: Read, DNS: Edit"),
    ],
)
def test_every_provider_says_no_in_words_of_its_own(provider: str, reason: str, words: str) -> None:
    message, _ = refused(reason, provider)
    assert message.startswith(f"platform:dnsToken: {provider} refuses it")
    assert words in message


def test_a_zone_that_the_token_does_not_see_is_about_the_domain() -> None:
    message, _ = refused("Found no Zones for domain _acme-challenge.platform.example.com.")
    assert message.startswith(
        'platform:services.certManager.domain = "platform.example.com": cloudflare shows no zone'
    )


def test_a_refusal_that_passes_is_waited_out() -> None:
    def answer(path: str, now: float) -> Any:
        if path == CHALLENGES:
            return challenge(REFUSAL if now % 100 < 50 else "")
        if path == PRESENTED:
            return None
        return certificate("True" if now > 300 else "False")

    assert wait(answer).now > 300


def test_what_was_refused_before_this_run_is_tried_again_at_once() -> None:
    tries: list[float] = []

    def answer(path: str, _: float) -> Any:
        # cert-manager's own next try would come much later.
        done = bool(tries)
        if path == PRESENTED:
            return {"items": []}
        return challenge("" if done else REFUSAL) if path == CHALLENGES else certificate(str(done))

    def changes(path: str, now: float) -> None:
        assert path == f"{CHALLENGES}/wildcard-1"
        tries.append(now)

    assert wait(answer, changes=changes).now < LASTING_SECONDS
    assert len(tries) == 1


def test_the_words_of_an_earlier_try_refuse_nothing_once_the_record_is_made() -> None:
    def answer(path: str, now: float) -> Any:
        if path == CHALLENGES:
            return challenge(REFUSAL, presented=now > 20)
        return certificate("True" if now > 200 else "False")

    assert wait(answer).now > 200


def test_a_record_that_has_just_been_made_is_left_alone_until_cert_manager_says_so() -> None:
    tries: list[float] = []

    def answer(path: str, now: float) -> Any:
        if path == CHALLENGES:
            return challenge(REFUSAL, presented=now > 200)
        if path == PRESENTED:
            return {"items": [{"reason": "Presented"}] if now > 20 else []}
        return certificate("True" if now > 300 else "False")

    assert wait(answer, changes=lambda _, now: tries.append(now)).now > 300
    assert tries
    assert max(tries) <= 20


def test_a_challenge_is_asked_about_again_while_it_is_refused() -> None:
    tries: list[float] = []
    answers = {CERTIFICATE: certificate(), CHALLENGES: challenge(REFUSAL)}
    with pytest.raises(IssuanceError):
        wait(lambda path, _: answers.get(path), changes=lambda _, now: tries.append(now))
    assert tries[0] < 1
    assert len(tries) >= LASTING_SECONDS / ASKING_SECONDS


def test_other_words_of_a_challenge_are_told_when_the_time_is_over() -> None:
    message, took = refused("dial tcp: lookup api.cloudflare.com: i/o timeout")
    assert took >= MINUTES * 60
    assert message == (
        "platform:services.certManager: traefik/wildcard is not issued after 15 minutes: the "
        "challenge for platform.example.com: dial tcp: lookup api.cloudflare.com: i/o timeout; "
        "look at `kubectl describe challenges,orders --all-namespaces`, then `pulumi up` again"
    )


def test_a_server_that_does_not_issue_is_named_before_the_time_is_over() -> None:
    failed = {"status": "False", "reason": "Failed", "message": "429 rateLimited: too many"}
    answers = {CERTIFICATE: certificate(issuing=failed), CHALLENGES: None}
    time = Time()
    with pytest.raises(IssuanceError) as caught:
        wait(lambda path, _: answers[path], time=time)
    assert str(caught.value) == (
        "platform:services.certManager: letsencrypt-production did not issue traefik/wildcard: "
        "429 rateLimited: too many; correct what it says, then `cmctl renew wildcard --namespace "
        "traefik` or wait an hour: cert-manager does, after a failure; then `pulumi up` again"
    )
    assert time.now < MINUTES * 60
