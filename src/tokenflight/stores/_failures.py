"""The errors that several stores raise, worded in one place."""

from tokenflight.errors import ConfigurationError, LeaseTimeout, StoreConflict, StoreCorrupted, StoreUnavailable
from tokenflight.stores.base import Version
from tokenflight.tokens import TokenKey


def lease_timeout(key: TokenKey, timeout: float) -> LeaseTimeout:
    """Another holder kept the lease for `timeout` seconds."""
    return LeaseTimeout(f"the lease on user {key.user_id!r} at {key.provider} was not free within {timeout} s")


def conflict(key: TokenKey, expected: Version | None) -> StoreConflict:
    """The record is not the one to be replaced, or is there where none was expected."""
    found = "is already there" if expected is None else "changed or is gone"
    return StoreConflict(f"the record of user {key.user_id!r} at {key.provider} {found}; nothing was written")


def logged_out(key: TokenKey) -> StoreConflict:
    """The record to be created holds a grant that a logout has ended."""
    return StoreConflict(
        f"user {key.user_id!r} has logged out at {key.provider} since this token set was issued; nothing was written",
        code="logged_out",
    )


def overtaken(key: TokenKey) -> StoreConflict:
    """A later login or logout has landed before a save that was late."""
    return StoreConflict(
        f"user {key.user_id!r} has logged in or out at {key.provider} since this login was to be stored; nothing was "
        "written",
        code="overtaken",
    )


def came_and_went(key: TokenKey) -> StoreUnavailable:
    """Other processes made and removed a record again and again while one was written."""
    return StoreUnavailable(f"the row of user {key.user_id!r} at {key.provider} came and went", code="contended")


def unreadable(key: TokenKey, error: StoreCorrupted) -> StoreCorrupted:
    """The error for the record of `key`; `error` says what is wrong with it."""
    return StoreCorrupted(
        f"the record of user {key.user_id!r} at {key.provider} can't be understood: {error}; it was left as it is, "
        "and a new login overwrites it",
        code=error.code,
    )


def foreign_version(key: TokenKey) -> StoreCorrupted:
    """The version that is stored beside the record is not the record's own."""
    return unreadable(key, StoreCorrupted("it and the version beside it do not belong together"))


def missing_extra(module: str, extra: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """The library that `module` needs is not installed."""
    return ModuleNotFoundError(f"{module} needs {error.name}: install tokenflight[{extra}]", name=error.name)


def wrong_event_loop(given: str, instead: str = "give the store a URL instead") -> ConfigurationError:
    """The `given` client or engine can't serve the running event loop."""
    return ConfigurationError(
        f"this store's {given} belongs to another event loop; {instead}, or make a store with its own {given} for each "
        "event loop",
        code="wrong_event_loop",
    )
