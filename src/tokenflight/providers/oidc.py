"""A provider known by its issuer; the rest is discovered."""

import httpx

from tokenflight._urls import require_secure_url
from tokenflight.errors import TokenRefreshError
from tokenflight.providers.base import BaseProvider
from tokenflight.providers.client_auth import ClientAuthentication
from tokenflight.providers.metadata import Discovery
from tokenflight.providers.oauth2 import RefreshTokenGrant
from tokenflight.tokens import TokenSet


class OIDCProvider(BaseProvider):
    """Renews token sets with the refresh-token grant at an OpenID provider (OpenID Connect Core §12).

    Discovery is loaded once, on first use, and shared by all users. `issuer` must be the very string that the
    provider calls itself. `name`, the provider's half of every record's key, is the issuer unless given. `scope`
    asks for a narrower scope than the one granted. `http_client` is used but never closed; without one, the provider
    opens its own and `aclose` closes it. `timeout` is in seconds, for one whole exchange.
    """

    def __init__(
        self,
        issuer: str,
        client: ClientAuthentication,
        *,
        name: str | None = None,
        scope: str | None = None,
        http_client: httpx.AsyncClient | None = None,
        timeout: float = 30.0,
    ) -> None:
        require_secure_url("issuer", issuer)
        self._issuer = issuer
        self._grant = RefreshTokenGrant(
            client,
            name=issuer if name is None else name,
            scope=scope,
            http_client=http_client,
            timeout=timeout,
        )
        self._discovery = Discovery(issuer, self._grant.http, provider=self.name)

    def __repr__(self) -> str:
        return f"<OIDCProvider {self.name!r} at {self._issuer}>"

    @property
    def name(self) -> str:
        """The provider's half of every record's key."""
        return self._grant.name

    @property
    def issuer(self) -> str:
        """The issuer: a refresh token it issued is sent nowhere else."""
        return self._issuer

    def require_refresh_token(self, user_id: str, tokens: TokenSet | None) -> None:
        """Raise `ReauthenticationRequired` if there is no refresh token in `tokens`; see `BaseProvider`."""
        self._grant.refresh_token_of(user_id, tokens)

    async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
        """Ask the provider's token endpoint for a new token set; see `Provider.renew`."""
        self.require_refresh_token(user_id, tokens)  # a user without one costs no discovery
        try:
            document = await self._discovery.document()
        except TokenRefreshError as exc:
            exc.user_id = user_id  # each caller has an error of its own
            raise
        return await self._grant.renew(document.token_endpoint, user_id, tokens)

    async def aclose(self) -> None:
        """Close the own HTTP client, if there is one, after the requests under way have ended."""
        await self._grant.http.aclose()
