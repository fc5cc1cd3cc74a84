"""Providers: what can renew a token set."""

from tokenflight.providers.base import AccessTokenHeader, BaseProvider, PartialRenewal, Provider
from tokenflight.providers.client_auth import (
    ClientAuthentication,
    ClientSecretBasic,
    ClientSecretPost,
    PublicClient,
)
from tokenflight.providers.metadata import ServerMetadata
from tokenflight.providers.oauth2 import OAuth2Provider
from tokenflight.providers.oidc import OIDCProvider
from tokenflight.providers.requests import Request

__all__ = [
    "AccessTokenHeader",
    "BaseProvider",
    "ClientAuthentication",
    "ClientSecretBasic",
    "ClientSecretPost",
    "OAuth2Provider",
    "OIDCProvider",
    "PartialRenewal",
    "Provider",
    "PublicClient",
    "Request",
    "ServerMetadata",
]
