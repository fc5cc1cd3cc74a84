"""Renewals at a certified OpenID provider: strict rotation, and a reuse revokes the grant."""

import asyncio

import pytest

from tokenflight import (
    ClientSecretPost,
    MemoryTokenStore,
    OIDCProvider,
    ProviderMisconfigured,
    ReauthenticationRequired,
    TokenRefresher,
)

from .oidc_server import AccountStats, OIDCServer


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post", "none"])
async def test_r9_a_renewal_works_with_each_client_authentication(
    oidc_server: OIDCServer, account: str, method: str
) -> None:
    client = oidc_server.clients[method]
    old = await oidc_server.expired_login(client, account)
    async with TokenRefresher(OIDCProvider(oidc_server.issuer, client)) as refresher:
        await refresher.save_tokens("alice", old)
        new = await refresher.get_valid_token("alice")
        stored = await refresher.load_tokens("alice")
    assert stored == new
    assert new.access_token != old.access_token
    assert new.refresh_token not in {None, old.refresh_token}
    assert new.id_token not in {None, old.id_token}
    assert new.scope == oidc_server.scope
    assert new.lifetime == 60
    assert await oidc_server.stats(account) == AccountStats(refreshed=1)


async def test_each_renewal_uses_the_refresh_token_of_the_one_before(oidc_server: OIDCServer, account: str) -> None:
    client = oidc_server.clients["client_secret_basic"]
    async with TokenRefresher(OIDCProvider(oidc_server.issuer, client)) as refresher:
        await refresher.save_tokens("alice", await oidc_server.login(client, account))
        issued = [(await refresher.refresh_token("alice")).refresh_token for _ in range(5)]
    assert len(set(issued)) == 5
    assert await oidc_server.stats(account) == AccountStats(refreshed=5)


async def test_a_narrower_scope_may_be_asked_for(oidc_server: OIDCServer, account: str) -> None:
    client = oidc_server.clients["none"]
    async with TokenRefresher(OIDCProvider(oidc_server.issuer, client, scope="openid")) as refresher:
        await refresher.save_tokens("alice", await oidc_server.expired_login(client, account))
        assert (await refresher.get_valid_token("alice")).scope == "openid"


async def test_r10_fifty_users_at_once_share_one_discovery(oidc_server: OIDCServer, account: str) -> None:
    client = oidc_server.clients["client_secret_post"]
    accounts = [f"{account}-{number}" for number in range(50)]
    async with TokenRefresher(OIDCProvider(oidc_server.issuer, client)) as refresher:
        for name in accounts:
            await refresher.save_tokens(name, await oidc_server.expired_login(client, name))
        before = await oidc_server.discoveries()
        await asyncio.gather(*(refresher.get_valid_token(name) for name in accounts))
        await refresher.refresh_token(accounts[0])
    assert await oidc_server.discoveries() == before + 1
    assert [await oidc_server.stats(name) for name in accounts[1:]] == [AccountStats(refreshed=1)] * 49
    assert await oidc_server.stats(accounts[0]) == AccountStats(refreshed=2)


async def test_t3_after_a_reuse_elsewhere_the_user_is_sent_to_log_in_and_the_provider_left_alone(
    oidc_server: OIDCServer, account: str
) -> None:
    client = oidc_server.clients["client_secret_basic"]
    old = await oidc_server.expired_login(client, account)
    store = MemoryTokenStore()
    async with TokenRefresher(OIDCProvider(oidc_server.issuer, client), store) as refresher:
        await refresher.save_tokens("alice", old)
        await refresher.get_valid_token("alice")

        assert old.refresh_token is not None
        reused = await oidc_server.refresh_by_hand(client, old.refresh_token)
        assert (reused.status_code, reused.json()["error"]) == (400, "invalid_grant")
        assert await oidc_server.stats(account) == AccountStats(refreshed=1, refused=1, grants_revoked=1)

        with pytest.raises(ReauthenticationRequired) as refused:
            await refresher.refresh_token("alice")
        assert refused.value.reason == "refused"
        assert refused.value.error == "invalid_grant"
        assert await oidc_server.stats(account) == AccountStats(refreshed=1, refused=2, grants_revoked=1)

    async with TokenRefresher(OIDCProvider(oidc_server.issuer, client), store) as restarted:
        for _ in range(3):
            with pytest.raises(ReauthenticationRequired):
                await restarted.refresh_token("alice")
        assert await oidc_server.stats(account) == AccountStats(refreshed=1, refused=2, grants_revoked=1)

        await restarted.save_tokens("alice", await oidc_server.expired_login(client, account))
        await restarted.get_valid_token("alice")
    assert await oidc_server.stats(account) == AccountStats(refreshed=2, refused=2, grants_revoked=1)


async def test_t2_a_wrong_client_secret_is_a_fault_of_the_deployment_and_spends_nothing(
    oidc_server: OIDCServer, account: str
) -> None:
    client = oidc_server.clients["client_secret_post"]
    store = MemoryTokenStore()
    wrong = OIDCProvider(oidc_server.issuer, ClientSecretPost(client.client_id, "wrong"))
    async with TokenRefresher(wrong, store) as refresher:
        await refresher.save_tokens("alice", await oidc_server.expired_login(client, account))
        with pytest.raises(ProviderMisconfigured) as misconfigured:
            await refresher.get_valid_token("alice")
        assert misconfigured.value.error == "invalid_client"
    async with TokenRefresher(OIDCProvider(oidc_server.issuer, client), store) as mended:
        await mended.get_valid_token("alice")
    assert await oidc_server.stats(account) == AccountStats(refreshed=1, refused=1)


async def test_r10_an_issuer_that_differs_by_a_slash_is_not_the_same(oidc_server: OIDCServer, account: str) -> None:
    client = oidc_server.clients["none"]
    async with TokenRefresher(OIDCProvider(f"{oidc_server.issuer}/", client)) as refresher:
        await refresher.save_tokens("alice", await oidc_server.expired_login(client, account))
        with pytest.raises(ProviderMisconfigured, match="issuer"):
            await refresher.get_valid_token("alice")
    assert await oidc_server.stats(account) == AccountStats()
