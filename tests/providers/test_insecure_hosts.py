"""N6: plain http to the hosts that the app names, and to no other, whatever the metadata says."""

from typing import Any, Final

import httpx
import pytest
import respx

from tokenflight.errors import ConfigurationError, ProviderMisconfigured
from tokenflight.providers.client_auth import PublicClient
from tokenflight.providers.oauth2 import OAuth2Provider
from tokenflight.providers.oidc import OIDCProvider
from tokenflight.tokens import TokenSet

CLIENT: Final = PublicClient("app")
HELD: Final = TokenSet("at", refresh_token="rt")
REALM: Final = "http://keycloak:8080/realms/main"
PUBLIC: Final = "https://login.example/realms/main"
PATH: Final = "/.well-known/openid-configuration"


@pytest.fixture
def endpoint(router: respx.MockRouter) -> respx.Route:
    return router.post(f"{REALM}/token").respond(json={"access_token": "at2"})


async def test_n6_a_token_endpoint_may_be_plain_http_at_a_named_host(
    http_client: httpx.AsyncClient, endpoint: respx.Route
) -> None:
    provider = OAuth2Provider(
        f"{REALM}/token", CLIENT, name="idp", insecure_hosts=["Keycloak"], http_client=http_client
    )

    assert (await provider.renew("alice", HELD)).access_token == "at2"
    assert provider.issuer == "http://keycloak:8080"


async def test_n6_an_issuer_may_be_plain_http_at_a_named_host(
    http_client: httpx.AsyncClient, router: respx.MockRouter, endpoint: respx.Route
) -> None:
    router.get(f"{REALM}{PATH}").respond(json={"issuer": REALM, "token_endpoint": f"{REALM}/token"})
    provider = OIDCProvider(REALM, CLIENT, insecure_hosts={"keycloak"}, http_client=http_client)

    assert (await provider.renew("alice", HELD)).access_token == "at2"
    assert provider.issuer == REALM


async def test_n6_an_internal_address_of_the_metadata_and_the_token_endpoint_goes_with_a_public_issuer(
    http_client: httpx.AsyncClient, router: respx.MockRouter, endpoint: respx.Route
) -> None:
    router.get(f"{REALM}{PATH}").respond(json={"issuer": PUBLIC, "token_endpoint": f"{REALM}/token"})
    provider = OIDCProvider(
        PUBLIC, CLIENT, metadata_url=f"{REALM}{PATH}", insecure_hosts=("keycloak",), http_client=http_client
    )

    assert (await provider.renew("alice", HELD)).access_token == "at2"
    assert provider.issuer == PUBLIC


@pytest.mark.parametrize(
    ("token_endpoint", "hosts"),
    [
        (f"{REALM}/token", ()),
        (f"{REALM}/token", ("login.example",)),
        ("http://keycloak.evil.example/token", ("keycloak",)),
        ("http://localhost/token", ("keycloak",)),
        ("http://127.0.0.1/token", ("localhost",)),
    ],
)
async def test_n6_https_metadata_leads_to_plain_http_at_named_hosts_alone(
    token_endpoint: str, hosts: tuple[str, ...], http_client: httpx.AsyncClient, router: respx.MockRouter
) -> None:
    router.get(f"{PUBLIC}{PATH}").respond(json={"issuer": PUBLIC, "token_endpoint": token_endpoint})
    token = router.post(token_endpoint).respond(json={"access_token": "at2"})
    provider = OIDCProvider(PUBLIC, CLIENT, insecure_hosts=hosts, http_client=http_client)

    with pytest.raises(ProviderMisconfigured, match="insecure_hosts") as caught:
        await provider.renew("alice", HELD)
    assert caught.value.code == "insecure_endpoint"
    assert not token.called


@pytest.mark.parametrize("argument", ["issuer", "metadata_url"])
def test_n6_other_hosts_must_be_https(argument: str) -> None:
    arguments: dict[str, Any] = {"issuer": PUBLIC, "client": CLIENT, argument: "http://other/realms/main"}

    with pytest.raises(ConfigurationError, match=rf"{argument} must be https \(plain http is for .* insecure_hosts\)"):
        OIDCProvider(**arguments, insecure_hosts=["keycloak"])
    with pytest.raises(ConfigurationError, match="token_endpoint must be https"):
        OAuth2Provider("http://other/token", CLIENT, name="idp", insecure_hosts=["keycloak"])


@pytest.mark.parametrize("hosts", ["keycloak", None, ["*"], ["http://keycloak"], ["keycloak:8080"], [""], [5]])
def test_n6_a_host_that_is_none_is_named(hosts: Any) -> None:
    with pytest.raises(ConfigurationError, match="insecure_hosts must"):
        OIDCProvider(PUBLIC, CLIENT, insecure_hosts=hosts)
    with pytest.raises(ConfigurationError, match="insecure_hosts must"):
        OAuth2Provider(f"{PUBLIC}/token", CLIENT, name="idp", insecure_hosts=hosts)
