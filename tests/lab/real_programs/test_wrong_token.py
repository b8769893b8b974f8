"""A DNS token that is refused, and the way on: the last tests on their platform."""

from __future__ import annotations

from ops.rehearsal.world import World
from tests.lab.conftest import editing
from tests.lab.real_programs.acme import chain, orders, signed_by


def test_a_dns_token_that_is_refused_is_named_by_up_and_a_right_one_goes_on_with_staging(
    world: World,
) -> None:
    refused, issued = world.state / "acme" / "token-refused", orders(world, "production")
    with editing(world) as replace:
        replace("issuer: letsencrypt-production", "issuer: letsencrypt-staging")
        refused.touch()
        failed = world.up(code=None)
        said = " ".join((failed.stdout + failed.stderr).split())
        assert failed.returncode != 0
        assert "platform:dnsToken: cloudflare refuses it" in said
        assert "Error: 9109: Invalid access token" in said
        assert "`pulumi config set --secret platform:dnsToken`" in said
        refused.unlink()
        world.up()
        world.expect_no_changes()
        assert signed_by(world, chain(world, "traefik", "wildcard"), "staging")
    # The one for the domain itself is asked for after the other, and nobody waits for it.
    assert orders(world, "staging") in {1, 2}
    assert orders(world, "production") == issued
    root = (world.state / "acme" / "staging.root").read_text()
    assert root not in (world.state / "ca.crt").read_text()
