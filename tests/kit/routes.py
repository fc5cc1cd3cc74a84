"""What reached a route of respx."""

from urllib.parse import parse_qsl

import respx


def forms(route: respx.Route) -> list[dict[str, str]]:
    """The forms that were posted, in the order in which they came."""
    return [dict(parse_qsl(call.request.content.decode(), strict_parsing=True)) for call in route.calls]
