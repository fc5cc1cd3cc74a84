"""Vendors' departures from the RFCs, as data: one constant a vendor, and `get` for its name.

Every fact carries its basis in a comment beside it: ``documented`` by the vendor itself, or ``seen`` in what several
independent projects send and expect. What could not be confirmed is left out. `docs/providers.md` is the table.
"""

from difflib import get_close_matches
from typing import Final

from tokenflight.errors import ConfigurationError
from tokenflight.profiles._business import (
    BAMBOOHR,
    CALENDLY,
    DEEL,
    EXACT_ONLINE,
    FORTNOX,
    HUBSPOT,
    NETSUITE,
    PIPEDRIVE,
    QUICKBOOKS,
    SALESFORCE,
    TRUSTPILOT,
    WORKDAY,
    XERO,
    ZENDESK,
    ZOHO,
)
from tokenflight.profiles._commerce import (
    AMAZON,
    AMAZON_SELLING_PARTNER,
    EBAY,
    PAYPAL,
    REVOLUT,
    SHOPIFY,
    STRIPE,
)
from tokenflight.profiles._identity import (
    APPLE,
    AUTH0,
    ENTRA,
    GITLAB,
    GOOGLE,
    KEYCLOAK,
    OKTA,
)
from tokenflight.profiles._social import (
    DISCORD,
    FACEBOOK,
    FITBIT,
    INSTAGRAM,
    LINKEDIN,
    PINTEREST,
    REDDIT,
    SPOTIFY,
    STRAVA,
    THREADS,
    TIKTOK,
    TWITCH,
    WITHINGS,
    X,
)
from tokenflight.profiles._work import (
    ADOBE_SIGN,
    AIRTABLE,
    ASANA,
    ATLASSIAN,
    BITBUCKET,
    BOX,
    CANVA,
    DOCUSIGN,
    DROPBOX,
    DROPBOX_SIGN,
    FIGMA,
    GITHUB,
    HEYGEN,
    LINEAR,
    MIRO,
    NOTION,
    SLACK,
    SLACK_USER,
    SNOWFLAKE,
    ZOOM,
)
from tokenflight.profiles.base import (
    STANDARD,
    ErrorReply,
    ErrorRule,
    Profile,
    Revocation,
    Verdict,
)

__all__ = [
    "ADOBE_SIGN",
    "AIRTABLE",
    "AMAZON",
    "AMAZON_SELLING_PARTNER",
    "APPLE",
    "ASANA",
    "ATLASSIAN",
    "AUTH0",
    "BAMBOOHR",
    "BITBUCKET",
    "BOX",
    "CALENDLY",
    "CANVA",
    "DEEL",
    "DISCORD",
    "DOCUSIGN",
    "DROPBOX",
    "DROPBOX_SIGN",
    "EBAY",
    "ENTRA",
    "EXACT_ONLINE",
    "FACEBOOK",
    "FIGMA",
    "FITBIT",
    "FORTNOX",
    "GITHUB",
    "GITLAB",
    "GOOGLE",
    "HEYGEN",
    "HUBSPOT",
    "INSTAGRAM",
    "KEYCLOAK",
    "LINEAR",
    "LINKEDIN",
    "MIRO",
    "NETSUITE",
    "NOTION",
    "OKTA",
    "PAYPAL",
    "PINTEREST",
    "PIPEDRIVE",
    "QUICKBOOKS",
    "REDDIT",
    "REVOLUT",
    "SALESFORCE",
    "SHOPIFY",
    "SLACK",
    "SLACK_USER",
    "SNOWFLAKE",
    "SPOTIFY",
    "STANDARD",
    "STRAVA",
    "STRIPE",
    "THREADS",
    "TIKTOK",
    "TRUSTPILOT",
    "TWITCH",
    "WITHINGS",
    "WORKDAY",
    "XERO",
    "ZENDESK",
    "ZOHO",
    "ZOOM",
    "ErrorReply",
    "ErrorRule",
    "Profile",
    "Revocation",
    "Verdict",
    "X",
    "get",
]

_BY_NAME: Final = {
    vendor.name: vendor
    for vendor in tuple(globals().values())
    if isinstance(vendor, Profile) and vendor is not STANDARD
}


def get(name: str) -> Profile:
    """The vendor's profile of this name, as in ``profile="okta"``. Raises `ConfigurationError` where there is none."""
    try:
        return _BY_NAME[name]
    except (KeyError, TypeError):
        close = get_close_matches(str(name), _BY_NAME, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigurationError(f"there is no profile named {name!r:.40}{hint}") from None
