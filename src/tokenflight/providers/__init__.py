"""Providers: what can renew a token set."""

from tokenflight.providers.base import Closeable, IssuerBound, Provider, RefreshTokenBound
from tokenflight.providers.client_auth import (
    ClientAuthentication,
    ClientSecretBasic,
    ClientSecretPost,
    PublicClient,
)
from tokenflight.providers.oauth2 import OAuth2Provider
from tokenflight.providers.oidc import OIDCProvider

__all__ = [
    "ClientAuthentication",
    "ClientSecretBasic",
    "ClientSecretPost",
    "Closeable",
    "IssuerBound",
    "OAuth2Provider",
    "OIDCProvider",
    "Provider",
    "PublicClient",
    "RefreshTokenBound",
]
