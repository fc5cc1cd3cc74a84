"""A provider known by its issuer; the rest is discovered."""

import asyncio
from collections.abc import Iterable

from tokenflight._checks import require_text
from tokenflight._urls import checked_hosts, require_secure_url
from tokenflight.errors import TokenRefreshError
from tokenflight.profiles import Profile
from tokenflight.providers._http import HTTPClient
from tokenflight.providers.base import AccessTokenHeader, BaseProvider
from tokenflight.providers.client_auth import ClientAuthentication
from tokenflight.providers.discovery import Discovery, require_issuer
from tokenflight.providers.endpoint import TokenEndpoint
from tokenflight.providers.metadata import ServerMetadata
from tokenflight.tokens import TokenSet


class OIDCProvider(BaseProvider):
    """Renews token sets with the refresh-token grant at an OpenID provider (OpenID Connect Core §12).

    Discovery is loaded once, on first use, and shared by all users. `issuer` must be the very string that the
    provider calls itself in its metadata, which is looked for below the issuer and where RFC 8414 §3.1 puts it.
    `metadata_url` is the address of the metadata where that is elsewhere: it is then the only one that is asked, and
    the issuer in it must still be `issuer`, such as ``https://login.microsoftonline.com/{tenantid}/v2.0``, braces and
    all, of a server for many tenants.

    `name`, the provider's half of every record's key, is the issuer unless given. `scope` asks for a narrower scope
    than the one granted. Issuer, metadata and endpoints must be https. Plain http will do on this machine, though not
    for the endpoints of an https issuer, and at `insecure_hosts`: names or addresses of hosts that are reached
    through a network that the app trusts with refresh tokens and the client's secret. `http_client` is used but never
    closed; without one, the provider opens its own and `aclose` closes it. `timeout` is in seconds, at most 60, for
    one whole exchange. `profile`, one of `tokenflight.profiles` or its name, says where requests and replies depart
    from the standard; addresses come from discovery, except for a refresh endpoint apart from the token endpoint.
    """

    def __init__(
        self,
        issuer: str,
        client: ClientAuthentication,
        *,
        metadata_url: str | None = None,
        name: str | None = None,
        scope: str | None = None,
        insecure_hosts: Iterable[str] = (),
        http_client: HTTPClient | None = None,
        timeout: float = 30.0,
        profile: Profile | str | None = None,
    ) -> None:
        hosts = checked_hosts("insecure_hosts", insecure_hosts)
        require_issuer(issuer, insecure_hosts=hosts)
        if metadata_url is not None:
            require_secure_url("metadata_url", metadata_url, insecure_hosts=hosts)
        if scope is not None:
            require_text("scope", scope)
        self._issuer = issuer
        self._scope = scope
        self._endpoint = TokenEndpoint(
            client,
            name=issuer if name is None else name,
            http_client=http_client,
            timeout=timeout,
            insecure_hosts=hosts,
            profile=profile,
        )
        self._discovery = Discovery(
            issuer,
            self._endpoint.http.send,
            provider=self.name,
            timeout=timeout,
            metadata_url=metadata_url,
            insecure_hosts=hosts,
        )

    def __repr__(self) -> str:
        return f"<OIDCProvider {self.name!r} at {self._issuer}>"

    @property
    def name(self) -> str:
        """The provider's half of every record's key."""
        return self._endpoint.name

    @property
    def issuer(self) -> str:
        """The issuer: a refresh token it issued is sent nowhere else."""
        return self._issuer

    def require_refresh_token(self, user_id: str, tokens: TokenSet | None) -> None:
        """Raise `ReauthenticationRequired` if there is no refresh token in `tokens`; see `BaseProvider`."""
        self._endpoint.refresh_grant(user_id, tokens)

    async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
        """Ask the provider's token endpoint for a new token set; see `Provider.renew`."""
        # First of all: a user without a refresh token costs no discovery.
        grant = self._endpoint.refresh_grant(user_id, tokens, scope=self._scope)
        deadline = self._endpoint.deadline()  # before discovery, which takes its part of the time
        try:
            server = await self._discovery.metadata()
        except TokenRefreshError as exc:
            exc.user_id = user_id  # each caller has an error of its own
            raise

        async def find_again() -> ServerMetadata | None:
            try:
                async with asyncio.timeout_at(deadline):
                    return await self._discovery.reload(server)
            except TimeoutError:
                return None

        return await self._endpoint.request_tokens(
            grant, server, user_id=user_id, previous=tokens, deadline=deadline, find_again=find_again
        )

    @property
    def access_token_header(self) -> AccessTokenHeader:
        """The header that carries the access token at the API, as the profile has it."""
        return self._endpoint.access_token_header

    async def aclose(self) -> None:
        """Close the own HTTP client, if there is one, after the requests under way have ended."""
        await self._endpoint.http.aclose()
