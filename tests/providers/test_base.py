"""What a refresher makes of a provider that has the two members of the protocol, or more."""

import pytest

from kit.minting import EXPIRED, Minting, renewed_of
from tokenflight.providers.base import BaseProvider, as_base_provider
from tokenflight.tokens import TokenSet


class Least(BaseProvider):
    """As little as a provider can have."""

    name = "least"

    async def renew(self, user_id: str, tokens: TokenSet | None) -> TokenSet:
        return renewed_of(user_id)


def test_a_base_provider_is_taken_as_it_is() -> None:
    provider = Least()

    assert as_base_provider(provider) is provider


async def test_a_provider_of_two_members_is_asked_through_a_base_provider_that_has_them() -> None:
    provider = Minting()
    base = as_base_provider(provider)

    assert base.name == "minting"
    assert await base.renew("alice", EXPIRED) == renewed_of("alice")
    assert provider.requests == 1


@pytest.mark.parametrize("provider", [Least(), as_base_provider(Minting())])
async def test_unless_told_otherwise_a_provider_has_no_issuer_needs_no_refresh_token_and_holds_nothing(
    provider: BaseProvider,
) -> None:
    assert provider.issuer is None
    provider.require_refresh_token("alice", None)
    await provider.aclose()


def test_a_base_provider_without_a_name_or_renewal_can_not_be_made() -> None:
    class Nothing(BaseProvider):
        pass

    with pytest.raises(TypeError, match=r"name.*renew"):
        Nothing()  # type: ignore[abstract] # the point
