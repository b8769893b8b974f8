"""Layer Traefik: whether the platform's certificate is issued, and which key is to blame if not.

cert-manager tries for ever, and says what it lacks in its challenges, not in the Certificate. Who
serves the domain is asked in a challenge first: until then nothing knows a wrong token.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pulumi

from clients.kubernetes_api import POLL_SECONDS, ApiError, KubernetesApi
from components.gate import Gate
from components.hooks import in_thread, resolved
from config.problems import Problem, problem

if TYPE_CHECKING:
    from clients.waiting import Clock
    from components.hooks import Hook
    from config.settings import CertManager

MINUTES = 15
"""DNS-01 waits for name servers all over the world to know the challenge."""
LASTING_SECONDS = 60.0
"""A refusal that lasts is no fault of the moment."""
ASKING_SECONDS = 15.0
ASKED = "platform/asked-again"
"""The annotation by which cert-manager is made to look again. After a failure it waits twice as
long as before, and a challenge goes on saying what its last try met, however long ago that was."""
AGAIN = "then `pulumi up` again"
REFUSED = {
    "cloudflare": (
        r"Error: (6003|9103|9106|9109|10000)\b",
        "make an API token that may read the zone and edit its DNS (Zone: Read, DNS: Edit)",
    ),
    "rfc2136": (
        r"NOTAUTH|BADKEY|BADSIG|REFUSED|dns: bad (authentication|signature)",
        "it is the TSIG key's secret in base64; `keyName` and `algorithm` must be that key's, too",
    ),
    "route53": (
        r"AccessDenied|InvalidClientTokenId|SignatureDoesNotMatch|UnrecognizedClient",
        "it is the secret of the access key platform:dnsAccessKey, which must be let change DNS",
    ),
}
"""The words of who serves the domain when it refuses the secret, and what to do: Cloudflare's codes
(its page "API troubleshooting"), the codes of RFC 8945 and RFC 2136, those of AWS."""
NO_ZONE = re.compile("Found no Zones|Could not find the SOA|failed to determine .*hosted zone")


class IssuanceError(Exception):
    """The certificate is not issued; the text names the key and the fix."""

    page = "docs/operations.md"


def once_issued(  # noqa: PLR0913 the certificate, its settings, and where the gate stands
    name: str,
    settings: CertManager,
    kubeconfig: pulumi.Output[str],
    *,
    namespace: str,
    after: pulumi.Resource,
    parent: pulumi.Resource,
) -> Gate:
    """Give a gate that opens once the Certificate of this name, `after`, is issued."""
    hook = _issued(f"{namespace}/{name}", settings, kubeconfig)
    return Gate(
        f"{name}-issued",
        {"domain": settings.domain, "issuer": settings.issuer},
        after=after,
        on_create=hook,
        on_update=hook,
        opts=pulumi.ResourceOptions(parent=parent),
    )


def _issued(certificate: str, settings: CertManager, kubeconfig: pulumi.Output[str]) -> Hook:
    async def issued(args: pulumi.ResourceHookArgs) -> None:
        api = KubernetesApi(await resolved(kubeconfig))
        await in_thread(args, lambda clock: wait_issued(api, certificate, settings, clock))

    return issued


def wait_issued(api: KubernetesApi, certificate: str, settings: CertManager, clock: Clock) -> None:
    """Wait for a Certificate, given as NAMESPACE/NAME. Raises `IssuanceError`.

    It ends before the time is over when who serves the domain goes on refusing, or when
    cert-manager has given up for an hour. A refused challenge is tried again at once and all the
    time: what is refused may have been put right since.
    """
    seen: dict[str, float] = {}
    asked: dict[str, float] = {}

    def lacking() -> str:
        try:
            found = _look(api, certificate, settings)
            now = clock.now()
            if found.final is None:
                seen.clear()
                return found.lacks
            path = found.challenge
            if path and now - asked.get(path, -ASKING_SECONDS) >= ASKING_SECONDS:
                asked[path] = now
                api.merge(path, {"metadata": {"annotations": {ASKED: str(now)}}})
        except ApiError as error:
            return str(error)
        if now - seen.setdefault(found.final.key, now) >= LASTING_SECONDS:
            raise IssuanceError(str(found.final))
        return found.lacks

    lacks = clock.wait(
        f"the certificate {certificate}", lacking, seconds=MINUTES * 60, poll=POLL_SECONDS
    )
    if lacks:
        fix = f"look at `kubectl describe challenges,orders --all-namespaces`, {AGAIN}"
        fault = f"{certificate} is not issued after {MINUTES} minutes: {lacks}"
        raise IssuanceError(str(problem(("services", "certManager"), None, fault, fix)))


@dataclass(frozen=True)
class Found:
    """What a Certificate lacks."""

    lacks: str = ""
    """"" when it is issued."""
    final: Problem | None = None
    """What is wrong, if no waiting helps."""
    challenge: str | None = None
    """The path of the challenge that is refused."""


def _look(api: KubernetesApi, certificate: str, settings: CertManager) -> Found:
    namespace, _, name = certificate.partition("/")
    found = api.find(f"/apis/cert-manager.io/v1/namespaces/{namespace}/certificates/{name}")
    if found is None:
        return Found("there is no such Certificate")
    ready, issuing = _condition(found, "Ready"), _condition(found, "Issuing")
    current = ready.get("observedGeneration") == found["metadata"]["generation"]
    if ready.get("status") == "True" and current:
        return Found()
    path = f"/apis/acme.cert-manager.io/v1/namespaces/{namespace}/challenges"
    challenges = (api.find(path) or {}).get("items", []) if settings.uses_acme else []
    for one in challenges:
        status = one.get("status", {})
        reason = " ".join(str(status.get("reason", "")).split())
        # A record that is made leaves the words of the tries before it.
        if refusal(settings, reason) and _is_made(api, namespace, one):
            reason = "its record is made; the name servers do not all know it yet"
        if reason:
            lacks = f"the challenge for {one['spec']['dnsName']}: {reason}"
            return Found(lacks, refusal(settings, reason), f"{path}/{one['metadata']['name']}")
    if issuing.get("status") == "False" and issuing.get("reason") == "Failed":
        message = str(issuing.get("message", ""))
        fix = (
            f"correct what it says, then `cmctl renew {name} --namespace {namespace}` or wait an "
            f"hour: cert-manager does, after a failure; {AGAIN}"
        )
        fault = f"{settings.issuer} did not issue {certificate}: {message}"
        return Found(message, problem(("services", "certManager"), None, fault, fix))
    return Found(str(ready.get("message", "cert-manager has not looked at it")))


def _is_made(api: KubernetesApi, namespace: str, challenge: dict[str, Any]) -> bool:
    """Say whether a challenge's record is made.

    cert-manager writes that into the status a minute later, once it has waited for the record's
    TTL, and a change of the challenge in that minute lets it start over. An event tells it at once
    (cert-manager 1.21, pkg/controller/acmechallenges/sync.go).
    """
    if challenge.get("status", {}).get("presented"):
        return True
    name = challenge["metadata"]["name"]
    which = f"involvedObject.kind=Challenge,involvedObject.name={name},reason=Presented"
    found = api.find(f"/api/v1/namespaces/{namespace}/events?fieldSelector={which}")
    return bool((found or {}).get("items"))


def refusal(settings: CertManager, reason: str) -> Problem | None:
    """Say what a challenge's words mean for the settings; `None` when they may be for now."""
    if settings.dns is None:
        return None
    provider = settings.dns.provider
    pattern, fix = REFUSED.get(provider, ("$^", ""))
    if re.search(pattern, reason):
        steps = f"{fix}, set it with `pulumi config set --secret platform:dnsToken`, {AGAIN}"
        return Problem("platform:dnsToken", f"{provider} refuses it ({reason})", steps)
    if NO_ZONE.search(reason):
        fix = f"check the domain, and that the token may see its zone, {AGAIN}"
        fault = f"{provider} shows no zone of it ({reason})"
        return problem(("services", "certManager", "domain"), settings.domain, fault, fix)
    return None


def _condition(found: dict[str, Any], kind: str) -> dict[str, Any]:
    """Give an object's condition of a kind, empty when it has none."""
    conditions: list[dict[str, Any]] = found.get("status", {}).get("conditions", [])
    return next((one for one in conditions if one["type"] == kind), {})
