"""A wrong argument is a configuration error that names it."""

import pytest

from tokenflight import ConfigurationError, OIDCProvider, TokenRefresher, TokenSet


@pytest.mark.parametrize("user_id", ["", None, 7], ids=repr)
async def test_a_user_id_that_is_no_name_is_a_configuration_error(refresher: TokenRefresher, user_id: str) -> None:
    for operation in (
        refresher.get_valid_token,
        refresher.refresh_token,
        refresher.load_tokens,
        refresher.delete_tokens,
    ):
        with pytest.raises(ConfigurationError, match="user_id"):
            await operation(user_id)


async def test_wrong_arguments_are_configuration_errors_that_name_them(
    provider: OIDCProvider, refresher: TokenRefresher
) -> None:
    with pytest.raises(ConfigurationError, match="provider"):
        TokenRefresher("https://idp.example")  # type: ignore[arg-type] # the point of the test
    with pytest.raises(ConfigurationError, match="store"):
        TokenRefresher(provider, {})  # type: ignore[arg-type] # the point of the test
    with pytest.raises(ConfigurationError, match="policy"):
        TokenRefresher(provider, policy=60)  # type: ignore[arg-type] # the point of the test
    with pytest.raises(ConfigurationError, match="on_event"):
        TokenRefresher(provider, on_event="print")  # type: ignore[arg-type] # the point of the test
    with pytest.raises(ConfigurationError, match="tokens"):
        await refresher.save_tokens("alice", {"access_token": "a"})  # type: ignore[arg-type] # the point of the test
    with pytest.raises(ConfigurationError, match="tokens"):
        await refresher.ensure_valid_token("alice", "a")  # type: ignore[arg-type] # the point of the test
    with pytest.raises(ConfigurationError, match="rejected"):
        await refresher.get_valid_token("alice", rejected=TokenSet("a"))  # type: ignore[arg-type] # the point of the test
    with pytest.raises(ConfigurationError, match="min_validity"):
        await refresher.get_valid_token("alice", min_validity="1 h")  # type: ignore[arg-type] # the point of the test
