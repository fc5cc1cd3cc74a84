"""A valid OAuth 2.0 access token for each of your users, refreshed at most once however many ask at the same moment."""

from tokenflight._core.sweep import SweepOutcome
from tokenflight.errors import (
    ConfigurationError,
    InvalidProviderResponse,
    LeaseTimeout,
    ProviderMisconfigured,
    ProviderUnavailable,
    ReauthenticationRequired,
    StoreConflict,
    StoreCorrupted,
    StoreError,
    StoreUnavailable,
    TokenflightError,
    TokenRefreshError,
)
from tokenflight.events import (
    RenewalDiscarded,
    RenewalFailed,
    SaveFailed,
    SaveRecovered,
    TokenAdopted,
    TokenEvent,
    TokenRenewed,
)
from tokenflight.policy import RefreshPolicy
from tokenflight.providers import (
    ClientAuthentication,
    ClientSecretBasic,
    ClientSecretPost,
    OAuth2Provider,
    OIDCProvider,
    Provider,
    PublicClient,
)
from tokenflight.refresher import TokenRefresher
from tokenflight.stores import FileTokenStore, Lease, MemoryTokenStore, StoredTokens, TokenStore, Version
from tokenflight.tokens import Target, TokenKey, TokenResult, TokenSet

__all__ = [
    "ClientAuthentication",
    "ClientSecretBasic",
    "ClientSecretPost",
    "ConfigurationError",
    "FileTokenStore",
    "InvalidProviderResponse",
    "Lease",
    "LeaseTimeout",
    "MemoryTokenStore",
    "OAuth2Provider",
    "OIDCProvider",
    "Provider",
    "ProviderMisconfigured",
    "ProviderUnavailable",
    "PublicClient",
    "ReauthenticationRequired",
    "RefreshPolicy",
    "RenewalDiscarded",
    "RenewalFailed",
    "SaveFailed",
    "SaveRecovered",
    "StoreConflict",
    "StoreCorrupted",
    "StoreError",
    "StoreUnavailable",
    "StoredTokens",
    "SweepOutcome",
    "Target",
    "TokenAdopted",
    "TokenEvent",
    "TokenKey",
    "TokenRefreshError",
    "TokenRefresher",
    "TokenRenewed",
    "TokenResult",
    "TokenSet",
    "TokenStore",
    "TokenflightError",
    "Version",
]
