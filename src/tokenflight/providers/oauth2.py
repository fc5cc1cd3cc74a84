"""A provider known by its token endpoint alone."""

from collections.abc import Iterable
from typing import Self

from tokenflight import profiles
from tokenflight._checks import require_kind, require_text
from tokenflight._urls import checked_hosts, origin_of, require_secure_url
from tokenflight.errors import ConfigurationError
from tokenflight.profiles import Profile
from tokenflight.providers._http import HTTPClient
from tokenflight.providers.base import AccessTokenHeader, BaseProvider
from tokenflight.providers.client_auth import ClientAuthentication
from tokenflight.providers.endpoint import TokenEndpoint
from tokenflight.providers.metadata import ServerMetadata
from tokenflight.tokens import TokenSet


class OAuth2Provider(BaseProvider):
    """Renews token sets with the refresh-token grant (RFC 6749 §6) at a fixed token endpoint.

    `name` is the provider's half of every record's key. `scope` asks for a narrower scope than the one granted.
    The endpoint must be https; it may be plain http on this machine and at `insecure_hosts`: names or addresses of
    hosts that are reached through a network that the app trusts with refresh tokens and the client's secret.
    `http_client` is used but never closed; without one, the provider opens its own and `aclose` closes it.
    `timeout` is in seconds, at most 60, for one whole exchange. `profile`, one of `tokenflight.profiles` or its name,
    says where requests and replies depart from the standard; `of` takes the endpoint from it, too.
    """

    def __init__(
        self,
        token_endpoint: str,
        client: ClientAuthentication,
        *,
        name: str,
        scope: str | None = None,
        insecure_hosts: Iterable[str] = (),
        http_client: HTTPClient | None = None,
        timeout: float = 30.0,
        profile: Profile | str | None = None,
    ) -> None:
        hosts = checked_hosts("insecure_hosts", insecure_hosts)
        require_secure_url("token_endpoint", token_endpoint, insecure_hosts=hosts)
        if scope is not None:
            require_text("scope", scope)
        self._token_endpoint = token_endpoint
        self._server = ServerMetadata(token_endpoint=token_endpoint)
        self._scope = scope
        self._endpoint = TokenEndpoint(
            client, name=name, http_client=http_client, timeout=timeout, insecure_hosts=hosts, profile=profile
        )

    @classmethod
    def of(
        cls,
        profile: Profile | str,
        client: ClientAuthentication,
        *,
        name: str | None = None,
        scope: str | None = None,
        insecure_hosts: Iterable[str] = (),
        http_client: HTTPClient | None = None,
        timeout: float = 30.0,
        **values: str,
    ) -> Self:
        """Return a provider at the vendor's own endpoint, such as ``OAuth2Provider.of(profiles.SLACK, client)``.

        `values` are what the vendor's endpoint leaves open, such as ``tenant="contoso.onmicrosoft.com"``: see
        `Profile.variables`. `name` is the profile's unless given. Raises `ConfigurationError` for a wrong value, and
        for a profile without a token endpoint.
        """
        require_kind("profile", profile, Profile | str)
        vendor = (profiles.get(profile) if isinstance(profile, str) else profile).at(**values)
        if vendor.token_endpoint is None:
            raise ConfigurationError(f"the profile {vendor.name} has no token endpoint: pass it to OAuth2Provider")
        return cls(
            vendor.token_endpoint,
            client,
            name=vendor.name if name is None else name,
            scope=scope,
            insecure_hosts=insecure_hosts,
            http_client=http_client,
            timeout=timeout,
            profile=vendor,
        )

    def __repr__(self) -> str:
        return f"<OAuth2Provider {self.name!r} at {self._token_endpoint}>"

    @property
    def name(self) -> str:
        """The provider's half of every record's key."""
        return self._endpoint.name

    @property
    def issuer(self) -> str:
        """The origin of the token endpoint: a refresh token obtained there is sent nowhere else."""
        return origin_of(self._token_endpoint)

    def require_refresh_token(self, user_id: str, tokens: TokenSet | None) -> None:
        """Raise `ReauthenticationRequired` if there is no refresh token in `tokens`; see `BaseProvider`."""
        self._endpoint.refresh_grant(user_id, tokens)

    async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
        """Ask the token endpoint for a new token set; see `Provider.renew`."""
        grant = self._endpoint.refresh_grant(user_id, tokens, scope=self._scope)
        return await self._endpoint.request_tokens(grant, self._server, user_id=user_id, previous=tokens)

    @property
    def access_token_header(self) -> AccessTokenHeader:
        """The header that carries the access token at the API, as the profile has it."""
        return self._endpoint.access_token_header

    async def aclose(self) -> None:
        """Close the own HTTP client, if there is one, after the requests under way have ended."""
        await self._endpoint.http.aclose()
