"""Tools to test an app on: a fake OpenID provider, and a store that fails as a test tells it to."""

from tokenflight.testing import dialects
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
    VendorError,
    WrongIssuer,
)
from tokenflight.testing.faulty_store import FaultyStore, StoreOperation
from tokenflight.testing.gates import Gate
from tokenflight.testing.grants import Rotation
from tokenflight.testing.provider import FakeProvider
from tokenflight.testing.reply_forms import Expiry, ReplyForm

__all__ = [
    "Delay",
    "DropReply",
    "DropRequest",
    "Endpoint",
    "Expiry",
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
    "ReplyForm",
    "Rotation",
    "ServerError",
    "StoreOperation",
    "VendorError",
    "WrongIssuer",
    "dialects",
]
