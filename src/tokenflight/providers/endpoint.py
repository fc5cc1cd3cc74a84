"""A client at a token endpoint: it presents a grant and gets a token set (RFC 6749 §3.2)."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from tokenflight._checks import require_text
from tokenflight.errors import (
    ConfigurationError,
    InvalidProviderResponse,
    ProviderMisconfigured,
    TokenflightError,
    TokenRefreshError,
)
from tokenflight.providers._http import HTTPClient, ProviderClient
from tokenflight.providers.client_auth import ClientAuthentication
from tokenflight.providers.grants import Grant
from tokenflight.providers.metadata import ServerMetadata
from tokenflight.providers.replies import Reply, parse_token_reply
from tokenflight.providers.requests import Request, build_token_request
from tokenflight.tokens import TokenSet

_AUTHENTICATION_SHARE: Final = 1 / 3
"""Of the timeout: so much, as for connecting, so that a signer that hangs is told apart from a provider that does."""

_GONE_STATUSES: Final = frozenset({404, 405, 410})
"""Nothing has acted on a request that is answered so: the grant can be presented once more, elsewhere or here."""


async def _nowhere_else() -> ServerMetadata | None:
    return None


@dataclass(frozen=True, slots=True)
class _Exchange:
    """A token request as it was last sent, when it was first sent (POSIX seconds), and the reply."""

    sent: Request
    sent_at: float
    reply: Reply


class TokenEndpoint:
    """Runs any grant as one client of one provider; owns the client's authentication and the HTTP client.

    `name` is the provider's, for errors. The endpoint's URL comes with each request, in the server's metadata; it may
    be plain http at `insecure_hosts`, which come from `checked_hosts`.
    """

    def __init__(
        self,
        client: ClientAuthentication,
        *,
        name: str,
        http_client: HTTPClient | None,
        timeout: float,
        insecure_hosts: frozenset[str] = frozenset(),
    ) -> None:
        require_text("name", name)
        if isinstance(client, type) or not callable(getattr(client, "authenticate", None)):
            raise ConfigurationError(
                f"client must be a client authentication such as ClientSecretBasic, not {type(client).__name__}"
            )
        self.name: str = name
        self.http: ProviderClient = ProviderClient(name, http_client, timeout=timeout)
        self._client = client
        self._insecure_hosts = insecure_hosts
        self._authentication_seconds = timeout * _AUTHENTICATION_SHARE

    async def request_tokens(
        self,
        grant: Grant,
        server: ServerMetadata,
        *,
        user_id: str,
        previous: TokenSet | None,
        find_again: Callable[[], Awaitable[ServerMetadata | None]] = _nowhere_else,
    ) -> TokenSet:
        """Present `grant` to `server` and return the token set, completed from `previous`.

        Where the reply shows that there is no token endpoint at its address, `find_again` returns the server's
        metadata as it is now, and the grant is presented once more; with None, there is nothing newer to go by.

        Raises a `TokenRefreshError` that names the user and the provider.
        """
        exchange = await self._exchange(grant, server, user_id)
        try:
            return self._read(exchange, user_id, previous)
        except (ProviderMisconfigured, InvalidProviderResponse):
            # The other errors are the words of a token endpoint, whatever the status.
            if exchange.reply.status not in _GONE_STATUSES or (moved := await find_again()) is None:
                raise
        # Outside the except clause: the first error is no context of what happens now.
        return self._read(await self._exchange(grant, moved, user_id), user_id, previous)

    async def _exchange(self, grant: Grant, server: ServerMetadata, user_id: str) -> _Exchange:
        url = server.endpoint("token_endpoint", provider=self.name, insecure_hosts=self._insecure_hosts)
        request = sent = build_token_request(url, grant)

        async def authenticate(request: Request) -> Request:
            nonlocal sent  # the reply is read with it, so that no error shows the secrets of the proof
            sent = await self._authenticate(request, server, user_id)
            return sent

        sent_at = time.time()  # before the first try: a token set never looks fresher than it is
        reply = await self.http.send(request, prepare=authenticate, user_id=user_id)
        return _Exchange(sent, sent_at, reply)

    def _read(self, exchange: _Exchange, user_id: str, previous: TokenSet | None) -> TokenSet:
        return parse_token_reply(
            exchange.reply,
            request=exchange.sent,
            previous=previous,
            sent_at=exchange.sent_at,
            user_id=user_id,
            provider=self.name,
        )

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
