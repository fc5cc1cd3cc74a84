"""A real OpenID provider for the tests in this directory, installed and started on first use."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from .oidc_server import OIDCServer, install_node_modules, running_server


@pytest.fixture(scope="session")
def node_modules_parent(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the provider's packages are: in pytest's cache, or installed anew if that is switched off."""
    cache = getattr(pytestconfig, "cache", None)
    parent = tmp_path_factory.mktemp("node") if cache is None else cache.mkdir("tokenflight-interop")
    return install_node_modules(parent)


@pytest.fixture(scope="session")
def oidc_server(node_modules_parent: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OIDCServer]:
    """The provider, one for all tests."""
    with running_server(node_modules_parent, tmp_path_factory.mktemp("oidc-server") / "errors.txt") as server:
        yield server


@pytest.fixture
def account() -> str:
    """An account at the provider that no other test uses."""
    return f"user-{secrets.token_hex(4)}"
