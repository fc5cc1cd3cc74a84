"""A client at a token endpoint: it presents a grant and gets a token set (RFC 6749 §3.2)."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from tokenflight import profiles
from tokenflight._checks import require_kind, require_text
from tokenflight._urls import require_secure_url
from tokenflight.errors import (
    ConfigurationError,
    InvalidProviderResponse,
    ProviderMisconfigured,
    TokenflightError,
    TokenRefreshError,
)
from tokenflight.profiles import Profile
from tokenflight.providers._http import HTTPClient, ProviderClient
from tokenflight.providers.base import AccessTokenHeader, PartialRenewal
from tokenflight.providers.client_auth import ClientAuthentication
from tokenflight.providers.grants import Grant, refresh_credential_of, refresh_token_grant
from tokenflight.providers.metadata import ServerMetadata
from tokenflight.providers.replies import Reply, parse_token_reply
from tokenflight.providers.requests import Request, build_token_request, with_vendor_names
from tokenflight.tokens import TokenSet

_AUTHENTICATION_SHARE: Final = 1 / 3
"""Of the timeout: so much, as for connecting, so that a signer that hangs is told apart from a provider that does."""

_GONE_STATUSES: Final = frozenset({404, 405, 410})
"""Nothing has acted on a request that is answered so: the grant can be presented once more, elsewhere or here."""


async def _nowhere_else() -> ServerMetadata | None:
    return None


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What came of presenting a grant once, and the status of the reply, None where there was none."""

    outcome: TokenSet | TokenRefreshError | PartialRenewal
    status: int | None = None

    @property
    def has_missed_the_endpoint(self) -> bool:
        """Whether there is no token endpoint at the address. A token endpoint's own words say otherwise."""
        is_page = isinstance(self.outcome, ProviderMisconfigured | InvalidProviderResponse)
        return is_page and self.status in _GONE_STATUSES

    def failed_with(self, code: str) -> bool:
        """Whether it ended in an error with this code."""
        return isinstance(self.outcome, TokenRefreshError) and self.outcome.code == code

    def result(self) -> TokenSet:
        """Return the token set, or raise what there is instead."""
        if isinstance(self.outcome, TokenSet):
            return self.outcome
        raise self.outcome


class TokenEndpoint:
    """Runs any grant as one client of one provider; owns the client's authentication and the HTTP client.

    `name` is the provider's, for errors. The endpoint's URL comes with each request, in the server's metadata; it may
    be plain http at `insecure_hosts`, which come from `checked_hosts`. `profile`, or a vendor's of this name, says how
    requests and replies depart from the standard; None stands for no departure.
    """

    def __init__(
        self,
        client: ClientAuthentication,
        *,
        name: str,
        http_client: HTTPClient | None,
        timeout: float,
        insecure_hosts: frozenset[str] = frozenset(),
        profile: Profile | str | None = None,
    ) -> None:
        require_text("name", name)
        require_kind("profile", profile, Profile | str | None)
        if isinstance(client, type) or not callable(getattr(client, "authenticate", None)):
            raise ConfigurationError(
                f"client must be a client authentication such as ClientSecretBasic, not {type(client).__name__}"
            )
        self.name: str = name
        self.profile: Profile = profiles.get(profile) if isinstance(profile, str) else profile or profiles.STANDARD
        if (url := self.profile.refresh_endpoint) is not None:
            if "{" in url:
                raise ConfigurationError(f"profile leaves a part of {url} open: fill it in with `Profile.at`")
            require_secure_url("refresh_endpoint", url, insecure_hosts=insecure_hosts)
        self.http: ProviderClient = ProviderClient(name, http_client, timeout=timeout)
        self._client = client
        self._timeout = timeout
        self._insecure_hosts = insecure_hosts
        self._authentication_seconds = timeout * _AUTHENTICATION_SHARE

    @property
    def access_token_header(self) -> AccessTokenHeader:
        """The header that carries the access token at the vendor's API."""
        return AccessTokenHeader(self.profile.access_token_header, self.profile.access_token_scheme)

    def refresh_grant(self, user_id: str, tokens: TokenSet | None, *, scope: str | None = None) -> Grant:
        """Return the grant that renews `tokens`; raise `ReauthenticationRequired` if there is nothing to renew with."""
        credential = refresh_credential_of(tokens, user_id=user_id, provider=self.name, profile=self.profile)
        return refresh_token_grant(credential, scope=scope, profile=self.profile)

    def deadline(self) -> float:
        """Until when a renewal that begins now may send a token request, as the event loop's clock tells it.

        A flight gives a renewal the time of two timeouts. A token request needs one of them for itself: cut off, it
        would lose the refresh token in the reply. So each is sent only if all before it fits in the other.
        """
        return asyncio.get_running_loop().time() + self._timeout

    async def request_tokens(
        self,
        grant: Grant,
        server: ServerMetadata,
        *,
        user_id: str,
        previous: TokenSet | None,
        deadline: float | None = None,
        find_again: Callable[[], Awaitable[ServerMetadata | None]] = _nowhere_else,
    ) -> TokenSet:
        """Present `grant` to `server` and return the token set, completed from `previous`.

        Where the reply shows that there is no token endpoint at its address, `find_again` returns the server's
        metadata as it is now, and the grant is presented once more; with None, there is nothing newer to go by. Where
        no usable reply arrives, and the vendor takes a refresh token a second time, the grant is presented once more,
        too. Neither happens after the `deadline` of a renewal that began before this call.

        Raises a `TokenRefreshError` that names the user and the provider.
        """
        clock = asyncio.get_running_loop().time
        began = clock()
        if deadline is None:
            deadline = self.deadline()
        attempt = await self._attempt(grant, server, user_id, previous)
        if attempt.has_missed_the_endpoint and (moved := await find_again()) is not None:
            server = moved
            attempt = await self._attempt(grant, server, user_id, previous)
        is_lost = grant.is_refresh and attempt.failed_with("outcome_unknown")
        if is_lost and clock() < deadline and self.profile.may_resend(clock() - began):
            again = await self._attempt(grant, server, user_id, previous)
            # If nothing was sent the second time, the outcome of the first is still unknown.
            attempt = attempt if again.failed_with("unreachable") else again
        try:
            return attempt.result()
        finally:
            del attempt  # an error would hold this frame in its traceback, and this frame the error

    async def _attempt(self, grant: Grant, server: ServerMetadata, user_id: str, previous: TokenSet | None) -> _Attempt:
        request = sent = build_token_request(self._url(grant, server), grant, profile=self.profile)

        async def authenticate(request: Request) -> Request:
            nonlocal sent  # the reply is read with it, so that no error shows the secrets of the proof
            sent = with_vendor_names(await self._authenticate(request, server, user_id), self.profile)
            return sent

        sent_at = time.time()  # before the first try: a token set never looks fresher than it is
        reply: Reply | None = None
        try:
            reply = await self.http.send(request, prepare=authenticate, user_id=user_id)
            tokens = parse_token_reply(
                reply,
                request=sent,
                previous=previous,
                sent_at=sent_at,
                user_id=user_id,
                provider=self.name,
                profile=self.profile,
            )
        except (TokenRefreshError, PartialRenewal) as exc:
            return _Attempt(exc, None if reply is None else reply.status)
        return _Attempt(tokens, reply.status)

    def _url(self, grant: Grant, server: ServerMetadata) -> str:
        if grant.is_refresh and self.profile.refresh_endpoint is not None:
            return self.profile.refresh_endpoint
        return server.endpoint("token_endpoint", provider=self.name, insecure_hosts=self._insecure_hosts)

    async def _authenticate(self, request: Request, server: ServerMetadata, user_id: str) -> Request:
        """Return `request` with the client's proof, by code that may be the app's: it may raise anything, or hang."""
        try:
            async with asyncio.timeout(self._authentication_seconds):
                return await self._client.authenticate(request, server)
        except TokenflightError:
            raise
        except Exception as exc:
            # Mapped here: in `ProviderClient.send`, an error of the app's own HTTP call would pass for the provider's.
            raise TokenRefreshError(
                f"{type(self._client).__name__} failed with {type(exc).__name__}, so nothing was sent to {self.name} "
                f"for user {user_id!r}; see the cause",
                code="unexpected",
                user_id=user_id,
                provider=self.name,
            ) from exc
