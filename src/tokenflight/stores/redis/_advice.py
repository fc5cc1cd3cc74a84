"""What to tell the operator of a server whose settings may lose token sets or leases."""

from collections.abc import Iterator, Mapping
from typing import Any


def advice_on(server: Mapping[str, Any], *, records_expire: bool) -> Iterator[str]:
    """What to change, from what a server tells about itself (its ``INFO``)."""
    policy = server.get("maxmemory_policy", "noeviction")
    if server.get("maxmemory") and policy != "noeviction":
        if policy.startswith("volatile-") and not records_expire:
            lost = "a lease, and with it the right of one process alone to renew a user's tokens"
        else:
            lost = "a user's tokens, who then has to log in again, or the lease on them"
        yield f"Redis has the maxmemory-policy {policy}: short of memory, it may drop {lost}. Set it to noeviction."
    # Only a primary that counts its replicas before it takes a write tells how many of them are well.
    if server.get("connected_slaves") and "min_slaves_good_slaves" not in server:
        yield (
            "Redis has replicas, but takes writes that none of them gets: a failover may lose renewed tokens, whose "
            "users then have to log in again. Set min-replicas-to-write to 1."
        )
