"""Move users in: read the token sets that other programs have stored, with whose they are as far as a file tells.

Each function takes a path, or what was parsed from it or read from a database, and gives a list of `ImportedTokens`::

    for found in importers.from_rclone("~/.config/rclone/rclone.conf"):
        await refresher.save_tokens(found.user_id, found.tokens)

The list is empty where there are no tokens; entries of another kind, such as API keys, are left out. A file that can't
be read raises `StoreUnavailable`, and one that is something else `StoreCorrupted`; no error shows what is in it. The
files are only read, in the calling thread. Stop the other program's renewals before the move: two programs on one
refresh token cost the user the grant.

One user's tokens as a mapping, without anything around them, are for `TokenSet.from_dict`.
"""

from tokenflight.importers._caches import from_gcloud, from_msal
from tokenflight.importers._files import (
    from_aws_sso,
    from_codex,
    from_gemini_cli,
    from_google,
    from_mcp,
    from_opencode,
    from_rclone,
    from_spotipy,
)
from tokenflight.importers._rows import from_authlib, from_django_allauth, from_fastapi_users, from_social_auth
from tokenflight.importers._source import ImportedTokens

__all__ = [
    "ImportedTokens",
    "from_authlib",
    "from_aws_sso",
    "from_codex",
    "from_django_allauth",
    "from_fastapi_users",
    "from_gcloud",
    "from_gemini_cli",
    "from_google",
    "from_mcp",
    "from_msal",
    "from_opencode",
    "from_rclone",
    "from_social_auth",
    "from_spotipy",
]
