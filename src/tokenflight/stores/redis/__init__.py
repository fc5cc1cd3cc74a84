"""A store in Redis, shared by processes on any number of hosts. Needs ``tokenflight[redis]``."""

from tokenflight.stores import _failures

try:
    import redis as _redis  # noqa: F401 - asked for here, so that the error names the extra
except ModuleNotFoundError as _error:
    raise _failures.missing_extra(__name__, "redis", _error) from _error

from tokenflight.stores.redis._store import RedisTokenStore

__all__ = ["RedisTokenStore"]
