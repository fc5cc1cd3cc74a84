"""Tools to test an app on: a fake OpenID provider, and a store that fails as a test tells it to."""

from tokenflight.testing.faults import (
    Delay,
    DropReply,
    DropRequest,
    Endpoint,
    Fault,
    GarbageReply,
    HTMLReply,
    HugeReply,
    OAuthError,
    PauseForm,
    RateLimited,
    Redirect,
    ServerError,
    WrongIssuer,
)
from tokenflight.testing.faulty_store import FaultyStore, StoreOperation
from tokenflight.testing.gates import Gate
from tokenflight.testing.grants import Rotation
from tokenflight.testing.provider import FakeProvider

__all__ = [
    "Delay",
    "DropReply",
    "DropRequest",
    "Endpoint",
    "FakeProvider",
    "Fault",
    "FaultyStore",
    "GarbageReply",
    "Gate",
    "HTMLReply",
    "HugeReply",
    "OAuthError",
    "PauseForm",
    "RateLimited",
    "Redirect",
    "Rotation",
    "ServerError",
    "StoreOperation",
    "WrongIssuer",
]
