"""Shops and payments."""

from typing import Final

from tokenflight.profiles.base import ErrorRule, Profile, Verdict

SHOPIFY: Final = Profile(
    name="shopify",
    token_endpoint="https://{shop}.myshopify.com/admin/oauth/access_token",  # documented
    authorization_endpoint="https://{shop}.myshopify.com/admin/oauth/authorize",  # documented
    client_authentication="client_secret_post",  # documented
    login_parameters={"expiring": "1"},  # documented: else an offline token does not expire
    scope_separator=",",  # documented
    assumed_lifetime=3600.0,  # documented
    rotation="keeps_previous",  # documented: until the new one is first used
    access_token_header="X-Shopify-Access-Token",  # documented
    access_token_scheme=None,  # documented
    error_rules=(ErrorRule(Verdict.REFUSED, status=401, words="requires an active refresh_token"),),  # seen
)

EBAY: Final = Profile(
    name="ebay",
    token_endpoint="https://api.ebay.com/identity/v1/oauth2/token",  # seen
    authorization_endpoint="https://auth.ebay.com/oauth2/authorize",  # seen
    client_authentication="client_secret_basic",  # seen
    rotation="never",  # seen
    refresh_token_lifetime=47_304_000.0,  # seen
)

AMAZON: Final = Profile(
    name="amazon",
    token_endpoint="https://api.amazon.com/auth/o2/token",  # documented
    authorization_endpoint="https://www.amazon.com/ap/oa",  # documented
    client_authentication="client_secret_post",  # seen
    rotation="never",  # seen
)

AMAZON_SELLING_PARTNER: Final = Profile(
    name="amazon_selling_partner",
    token_endpoint="https://api.amazon.com/auth/o2/token",  # documented
    client_authentication="client_secret_post",  # seen
    rotation="never",  # seen
    access_token_header="x-amz-access-token",  # documented
    access_token_scheme=None,  # documented
)

STRIPE: Final = Profile(
    name="stripe",
    token_endpoint="https://api.stripe.com/v1/oauth/token",  # documented
    authorization_endpoint="https://marketplace.stripe.com/oauth/v2/authorize",  # documented
    client_authentication="client_secret_basic",  # seen: the secret key is the user name
    assumed_lifetime=3600.0,  # seen: the reply tells none
    rotation="always",  # seen
)

PAYPAL: Final = Profile(
    name="paypal",
    token_endpoint="https://api-m.paypal.com/v1/oauth2/token",  # documented
    authorization_endpoint="https://www.paypal.com/signin/authorize",  # seen
    client_authentication="client_secret_basic",  # documented
)

REVOLUT: Final = Profile(
    name="revolut",
    token_endpoint="https://b2b.revolut.com/api/1.0/auth/token",  # seen
    client_authentication="private_key_jwt",  # seen: iss is the redirect URI's host, aud https://revolut.com
    rotation="never",  # seen
)
