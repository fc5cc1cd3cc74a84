"""Every error that tokenflight raises, in a tree ordered by the caller's next step.

::

    TokenflightError
    ├── TokenRefreshError            the token set could not be renewed
    │   ├── ReauthenticationRequired   send the user through login again
    │   ├── ProviderUnavailable        try later
    │   ├── ProviderMisconfigured      fix the deployment
    │   └── InvalidProviderResponse    the provider broke the protocol
    ├── StoreError                   an operation of the store failed
    │   ├── StoreUnavailable           it can't be reached, written or read now
    │   ├── StoreCorrupted             a record can't be read; the store left it alone
    │   ├── StoreConflict              the record changed, or is gone
    │   └── LeaseTimeout               another holder kept the lease for too long
    └── ConfigurationError           wrong arguments or use

Errors hold plain data only: they pickle, they can be copied for each waiter of a flight, and they never hold a
token, a client secret or a response body.
"""

from typing import ClassVar, Literal, Self, cast

ReauthenticationReason = Literal["no_tokens", "refused", "no_refresh_token", "logged_out"]


class TokenflightError(Exception):
    """The root of the tree. `code` is a stable string to branch on, finer than the class."""

    default_code: ClassVar[str] = "error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.code: str = code if code is not None else self.default_code

    def __copy__(self) -> Self:
        """A copy to raise once: the cause is the same, traceback and notes are its own."""
        kind = type(self)
        own = kind.__new__(kind, *self.args)  # a subclass may have an __init__ that takes other arguments
        own.__dict__.update(self.__dict__)
        if hasattr(self, "__notes__"):
            own.__notes__ = list(self.__notes__)
        own.__cause__ = self.__cause__
        own.__suppress_context__ = self.__suppress_context__
        return own


class TokenRefreshError(TokenflightError):
    """The token set of `user_id` could not be renewed at `provider`; both are None where unknown.

    `error` and `error_description` are the provider's own words where it gave any (RFC 6749 §5.2), shortened and
    without control characters.
    """

    default_code = "refresh_failed"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        user_id: str | None = None,
        provider: str | None = None,
        error: str | None = None,
        error_description: str | None = None,
    ) -> None:
        super().__init__(message, code=code)
        self.user_id = user_id
        self.provider = provider
        self.error = error
        self.error_description = error_description


class ReauthenticationRequired(TokenRefreshError):  # noqa: N818 - named for what the caller does next
    """Send the user through login again: no renewal can help.

    `reason` says why: nothing is stored for the user (``no_tokens``), the provider refused the refresh token
    (``refused``, RFC 6749 §5.2 ``invalid_grant``), there is none to renew with (``no_refresh_token``), or the token set
    that the caller holds is older than the user's last logout (``logged_out``).

    Where the provider gave them, `claims` is what the next login request has to send as its ``claims`` parameter,
    unchanged (OpenID Connect Core §5.5), and `detail` is a code finer than `error`, such as Google's ``invalid_rapt``.
    Both are None where the refusal is remembered from an earlier renewal.
    """

    default_code = "refused"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        user_id: str | None = None,
        provider: str | None = None,
        error: str | None = None,
        error_description: str | None = None,
        claims: str | None = None,
        detail: str | None = None,
    ) -> None:
        super().__init__(
            message,
            code=code,
            user_id=user_id,
            provider=provider,
            error=error,
            error_description=error_description,
        )
        self.claims = claims
        self.detail = detail

    @property
    def reason(self) -> ReauthenticationReason:
        """The reason; the same string as `code`."""
        return cast(ReauthenticationReason, self.code)


class ProviderUnavailable(TokenRefreshError):  # noqa: N818 - named for the state the caller waits out
    """Try again later: the provider could not be reached, timed out, failed, or asked for a pause.

    `retry_after` is the number of seconds to wait before another try makes sense, or None where unknown.
    With the code ``outcome_unknown`` the request may have been processed although no reply arrived. With ``not_yet`` it
    is too early: the provider renews an access token only shortly before that expires.
    """

    default_code = "provider_unavailable"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        user_id: str | None = None,
        provider: str | None = None,
        error: str | None = None,
        error_description: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(
            message,
            code=code,
            user_id=user_id,
            provider=provider,
            error=error,
            error_description=error_description,
        )
        self.retry_after = retry_after


class ProviderMisconfigured(TokenRefreshError):  # noqa: N818 - named for the state to mend
    """Fix the deployment: wrong client credentials, issuer, endpoint or grant. Asking again changes nothing."""

    default_code = "provider_misconfigured"


class InvalidProviderResponse(TokenRefreshError):  # noqa: N818 - named for what arrived
    """The provider broke the protocol.

    If its reply holds a new refresh token, that is stored before this error is raised. With the code
    ``outcome_unknown``, the reply may have held one that could not be found: the stored one may be spent.
    """

    default_code = "invalid_response"


class StoreError(TokenflightError):
    """An operation of the store failed."""

    default_code = "store_error"


class StoreUnavailable(StoreError):  # noqa: N818 - named for the state the caller waits out
    """The store can't be reached, read or written now: disk full, connection lost, permission denied."""

    default_code = "store_unavailable"


class StoreCorrupted(StoreError):  # noqa: N818 - named for the state to mend
    """A record can't be read. The store left it alone; a new login overwrites it."""

    default_code = "store_corrupted"


class StoreConflict(StoreError):  # noqa: N818 - named for what happened
    """The record does not have the expected version: another writer changed, deleted or created it."""

    default_code = "store_conflict"


class LeaseTimeout(StoreError):  # noqa: N818 - named as the standard library names its timeouts
    """Another holder kept the lease for longer than the caller would wait."""

    default_code = "lease_timeout"


class ConfigurationError(TokenflightError):
    """Wrong arguments or wrong use. The message names the argument and the expected value."""

    default_code = "configuration"
