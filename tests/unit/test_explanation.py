"""The words of vCenter and of networks, as problems of settings."""

import pytest

from clients.explanation import of_object
from config import parse
from tests.unit.recorder import production

SITE = parse(production()).site


@pytest.mark.parametrize(
    ("words", "key", "fault", "fix"),
    [
        (
            "ServerFaultCode: Cannot complete login due to an incorrect user name or password.",
            "platform:vspherePassword, platform:site.user: ",
            "refuses the login of",
            "docs/procedures/rotate-secret.md",
        ),
        (
            "x509: certificate has expired or is not yet valid: current time is after 2026-01-01",
            "platform:site.vcenter = ",
            "its certificate has expired",
            "renew the certificate",
        ),
        (
            "tls: failed to verify certificate: x509: certificate signed by unknown authority",
            "platform:site.vcenter = ",
            "an authority that this machine does not trust",
            "add that authority's certificate",
        ),
        (
            "dial tcp: lookup vcenter.example.com on 172.16.20.1:53: no such host",
            "platform:site.vcenter = ",
            "no name server knows this name",
            "which name servers",
        ),
        (
            "dial tcp 172.16.20.10:443: connect: connection refused",
            "platform:site.vcenter = ",
            "nothing listens there",
            "whether it runs",
        ),
        (
            "dial tcp 172.16.20.10:443: i/o timeout",
            "platform:site.vcenter = ",
            "it does not answer",
            "firewalls",
        ),
        (
            "error fetching datastore: datastore 'datastore01' not found",
            'platform:site.datastore = "datastore01": ',
            "has no such datastore in the datacenter dc01",
            "name one that it has",
        ),
        (
            "ServerFaultCode: Permission to perform this operation was denied.",
            "platform:site.user = ",
            "denies it a right",
            "docs/site-requirements.md",
        ),
        (
            "something that nobody has seen before",
            'platform:site.datastore = "datastore01": ',
            "cannot give this datastore",
            "it says: something that nobody has seen before",
        ),
    ],
)
def test_a_failure_names_key_value_and_fix_and_keeps_the_vendors_words(
    words: str, key: str, fault: str, fix: str
) -> None:
    text = str(of_object(SITE, ("site", "datastore"), SITE.datastore, "datastore", words))
    assert text.startswith(key)
    assert fault in text
    assert fix in text
    assert words in text


def test_a_missing_host_is_told_at_its_machine() -> None:
    found = of_object(SITE, ("machines", 1, "host"), "esx09", "host", "host 'esx09' not found")
    assert str(found).startswith('platform:machines[1].host = "esx09": ')


def test_a_name_with_a_slash_is_told_as_vcenter_writes_it() -> None:
    words = "datastore 'nfs/prod' not found"
    found = of_object(SITE, ("site", "datastore"), "nfs/prod", "datastore", words)
    assert "a `/` in a name is %2f" in str(found)
