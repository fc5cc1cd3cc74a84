"""A provider known by its token endpoint alone."""

import time
from typing import Final

import httpx

from tokenflight._checks import require_kind, require_text
from tokenflight._urls import origin_of, require_secure_url
from tokenflight.errors import ConfigurationError, ReauthenticationRequired
from tokenflight.providers._http import ProviderClient
from tokenflight.providers.base import BaseProvider
from tokenflight.providers.client_auth import ClientAuthentication
from tokenflight.providers.messages import build_refresh_request, parse_token_reply
from tokenflight.tokens import TokenSet

MAX_TIMEOUT_SECONDS: Final = 60.0
"""A flight gives a renewal two minutes: discovery and the token request have to fit in."""


class OAuth2Provider(BaseProvider):
    """Renews token sets with the refresh-token grant (RFC 6749 §6) at a fixed token endpoint.

    `name` is the provider's half of every record's key. `scope` asks for a narrower scope than the one granted.
    `http_client` is used but never closed; without one, the provider opens its own and `aclose` closes it.
    `timeout` is in seconds, at most 60, for one whole exchange.
    """

    def __init__(
        self,
        token_endpoint: str,
        client: ClientAuthentication,
        *,
        name: str,
        scope: str | None = None,
        http_client: httpx.AsyncClient | None = None,
        timeout: float = 30.0,
    ) -> None:
        require_secure_url("token_endpoint", token_endpoint)
        self._token_endpoint = token_endpoint
        self._grant = RefreshTokenGrant(client, name=name, scope=scope, http_client=http_client, timeout=timeout)

    def __repr__(self) -> str:
        return f"<OAuth2Provider {self.name!r} at {self._token_endpoint}>"

    @property
    def name(self) -> str:
        """The provider's half of every record's key."""
        return self._grant.name

    @property
    def issuer(self) -> str:
        """The origin of the token endpoint: a refresh token obtained there is sent nowhere else."""
        return origin_of(self._token_endpoint)

    def require_refresh_token(self, user_id: str, tokens: TokenSet | None) -> None:
        """Raise `ReauthenticationRequired` if there is no refresh token in `tokens`; see `BaseProvider`."""
        self._grant.refresh_token_of(user_id, tokens)

    async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
        """Ask the token endpoint for a new token set; see `Provider.renew`."""
        return await self._grant.renew(self._token_endpoint, user_id, tokens)

    async def aclose(self) -> None:
        """Close the own HTTP client, if there is one, after the requests under way have ended."""
        await self._grant.http.aclose()


class RefreshTokenGrant:
    """The refresh-token grant, at whichever token endpoint: what `OAuth2Provider` and `OIDCProvider` share."""

    def __init__(
        self,
        client: ClientAuthentication,
        *,
        name: str,
        scope: str | None,
        http_client: httpx.AsyncClient | None,
        timeout: float,
    ) -> None:
        require_text("name", name)
        for method in ("headers", "parameters"):
            if isinstance(client, type) or not callable(getattr(client, method, None)):
                raise ConfigurationError(
                    f"client must be a client authentication such as ClientSecretBasic, not {type(client).__name__}"
                )
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= MAX_TIMEOUT_SECONDS:
            raise ConfigurationError(f"timeout must be more than 0 and at most {MAX_TIMEOUT_SECONDS:.0f} seconds")
        if scope is not None:
            require_text("scope", scope)
        require_kind("http_client", http_client, httpx.AsyncClient | None)
        self.name: str = name
        self.http: ProviderClient = ProviderClient(name, http_client, timeout=timeout)
        self._client = client
        self._scope = scope

    def refresh_token_of(self, user_id: str, tokens: TokenSet | None) -> str:
        """What to renew `tokens` with, or `ReauthenticationRequired`."""
        if tokens is not None and tokens.refresh_token is not None and tokens.refresh_token.isascii():
            return tokens.refresh_token
        what = "no token set is stored" if tokens is None else "the stored token set has no refresh token"
        raise ReauthenticationRequired(
            f"{what} for user {user_id!r} at {self.name}; send the user through login",
            code="no_tokens" if tokens is None else "no_refresh_token",
            user_id=user_id,
            provider=self.name,
        )

    async def renew(self, token_endpoint: str, user_id: str, tokens: TokenSet | None) -> TokenSet:
        """Ask `token_endpoint` for the successor of `tokens`."""
        refresh_token = self.refresh_token_of(user_id, tokens)
        request = build_refresh_request(token_endpoint, refresh_token, self._client, scope=self._scope)
        sent_at = time.time()
        reply = await self.http.send(request, user_id=user_id)
        return parse_token_reply(
            reply,
            previous=tokens,
            sent_at=sent_at,
            user_id=user_id,
            provider=self.name,
            secrets=request.secrets,
        )
