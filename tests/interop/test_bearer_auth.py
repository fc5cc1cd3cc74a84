"""`BearerAuth` against the provider's userinfo endpoint, an API that answers 401 to a dead access token."""

import asyncio

import httpx
import pytest

from tokenflight import OIDCProvider, ReauthenticationRequired, TokenRefresher, TokenSet
from tokenflight.httpx import BearerAuth

from .oidc_server import AccountStats, OIDCServer


async def test_an_api_call_with_an_expired_token_goes_out_with_a_renewed_one(
    oidc_server: OIDCServer, account: str
) -> None:
    client = oidc_server.clients["client_secret_basic"]
    async with TokenRefresher(OIDCProvider(oidc_server.issuer, client)) as refresher:
        await refresher.save_tokens("alice", await oidc_server.expired_login(client, account))
        async with httpx.AsyncClient(base_url=oidc_server.issuer, auth=BearerAuth(refresher, "alice")) as api:
            replies = [await api.get("/me") for _ in range(3)]
    assert [(reply.status_code, reply.json()) for reply in replies] == [(200, {"sub": account})] * 3
    assert await oidc_server.stats(account) == AccountStats(refreshed=1)


@pytest.mark.parametrize("http_method", ["GET", "POST"])
async def test_s7_a_token_revoked_at_the_api_is_renewed_once_and_the_request_repeated(
    oidc_server: OIDCServer, account: str, http_method: str
) -> None:
    client = oidc_server.clients["client_secret_basic"]
    tokens = await oidc_server.login(client, account)
    async with TokenRefresher(OIDCProvider(oidc_server.issuer, client)) as refresher:
        await refresher.save_tokens("alice", tokens)
        async with httpx.AsyncClient(base_url=oidc_server.issuer, auth=BearerAuth(refresher, "alice")) as api:
            assert (await api.request(http_method, "/me")).status_code == 200
            await oidc_server.revoke_access_token(tokens.access_token)
            assert await _status_without_tokenflight(oidc_server, tokens) == 401
            assert (await api.request(http_method, "/me")).status_code == 200
    assert await oidc_server.stats(account) == AccountStats(refreshed=1)


async def test_s7_fifty_api_calls_that_meet_a_revoked_token_cost_one_renewal(
    oidc_server: OIDCServer, account: str
) -> None:
    client = oidc_server.clients["client_secret_basic"]
    tokens = await oidc_server.login(client, account)
    async with TokenRefresher(OIDCProvider(oidc_server.issuer, client)) as refresher:
        await refresher.save_tokens("alice", tokens)
        await oidc_server.revoke_access_token(tokens.access_token)
        async with httpx.AsyncClient(base_url=oidc_server.issuer, auth=BearerAuth(refresher, "alice")) as api:
            replies = await asyncio.gather(*(api.get("/me") for _ in range(50)))
    assert [reply.status_code for reply in replies] == [200] * 50
    assert await oidc_server.stats(account) == AccountStats(refreshed=1)


async def test_t3_once_the_grant_is_revoked_each_api_call_says_that_the_user_has_to_log_in(
    oidc_server: OIDCServer, account: str
) -> None:
    client = oidc_server.clients["client_secret_basic"]
    spent = await oidc_server.login(client, account)
    async with TokenRefresher(OIDCProvider(oidc_server.issuer, client)) as refresher:
        await refresher.save_tokens("alice", spent)
        tokens = await refresher.refresh_token("alice")
        assert spent.refresh_token is not None
        await oidc_server.refresh_by_hand(client, spent.refresh_token)
        assert await _status_without_tokenflight(oidc_server, tokens) == 401
        async with httpx.AsyncClient(base_url=oidc_server.issuer, auth=BearerAuth(refresher, "alice")) as api:
            for _ in range(3):
                with pytest.raises(ReauthenticationRequired) as refused:
                    await api.get("/me")
                assert refused.value.reason == "refused"
    assert await oidc_server.stats(account) == AccountStats(refreshed=1, refused=2, grants_revoked=1)


async def _status_without_tokenflight(oidc_server: OIDCServer, tokens: TokenSet) -> int:
    async with httpx.AsyncClient(base_url=oidc_server.issuer) as api:
        return (await api.get("/me", headers={"Authorization": f"Bearer {tokens.access_token}"})).status_code
