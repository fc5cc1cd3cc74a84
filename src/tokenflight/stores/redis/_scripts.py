"""What the server does in one step: the Lua scripts, each on the one key it is given.

redis-py sends a command again when the connection breaks before the reply. So each script may run twice, and does the
same as if it had run once.
"""

import hashlib
from typing import ClassVar, Final

# Redis 7 holds scripts to the server's min-replicas-to-write. Before it, a primary that a failover is about to replace
# goes on writing what will be lost. INFO has this line if the setting is not 0. After INFO, which is not the same on a
# replica, a script may write only if what it does is replicated, rather than the script.
_REFUSED_WITHOUT_REPLICAS: Final = """
if not redis.REDIS_VERSION_NUM and redis.replicate_commands then
    redis.replicate_commands()
    local replication = redis.pcall('info', 'replication')
    if type(replication) == 'string' and string.find(replication, 'min_slaves_good_slaves:0', 1, true) then
        return redis.error_reply('NOREPLICAS Not enough good replicas to write.')
    end
end
"""


class Script:
    """A Lua script that a primary alone runs, and the digest by which the server knows it.

    A replica runs a script up to the first command that would write. After a failover, the former primary would answer
    from what it last knew: that a record has changed, or that a lease is no longer its holder's. So each script begins
    with `refused`, which changes nothing but is refused by a replica.
    """

    refused: ClassVar[str]

    def __init__(self, text: str, *, writes: bool = True) -> None:
        self.text = f"""
{_REFUSED_WITHOUT_REPLICAS if writes else ""}
local refused = {self.refused}
if type(refused) == 'table' and string.find(refused.err, 'READONLY', 1, true) then return refused end
{text}"""
        self.sha: str = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


class RecordScript(Script):
    """A script on a record, which is a hash."""

    refused = "redis.pcall('hdel', KEYS[1], '')"


class LeaseScript(Script):
    """A script on a lease, which is a string."""

    refused = "redis.pcall('setrange', KEYS[1], 0, '')"


# For a cluster: its client may send a plain read to a replica, which lags behind.
LOAD: Final = RecordScript("return redis.pcall('hmget', KEYS[1], 'version', 'record')", writes=False)

# `saved` is the version with which the record was last saved or created. It tells a save that is sent again from a new
# one: the first must not undo the renewal that followed it.
SAVE: Final = RecordScript("""
local version, record, lifetime = ARGV[1], ARGV[2], tonumber(ARGV[3])
if redis.pcall('hget', KEYS[1], 'saved') == version then return end
redis.call('del', KEYS[1])
redis.call('hset', KEYS[1], 'version', version, 'saved', version, 'record', record)
if lifetime > 0 then redis.call('pexpire', KEYS[1], lifetime) end
""")

# Returns 1 if the record was created, now or when the same creation was sent before.
CREATE: Final = RecordScript("""
local version, record, lifetime = ARGV[1], ARGV[2], tonumber(ARGV[3])
if redis.pcall('hget', KEYS[1], 'saved') == version then return 1 end
if redis.call('exists', KEYS[1]) == 1 then return 0 end
redis.call('hset', KEYS[1], 'version', version, 'saved', version, 'record', record)
if lifetime > 0 then redis.call('pexpire', KEYS[1], lifetime) end
return 1
""")

# Returns 1 if the record was replaced, now or when the same replacement was sent before.
REPLACE: Final = RecordScript("""
local version, record, lifetime, expected = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local current = redis.pcall('hget', KEYS[1], 'version')
if current == version then return 1 end
if current ~= expected then return 0 end
redis.call('hset', KEYS[1], 'version', version, 'record', record)
if lifetime > 0 then redis.call('pexpire', KEYS[1], lifetime) else redis.call('persist', KEYS[1]) end
return 1
""")

# Returns nothing if the lease is ours now. Otherwise the milliseconds for which another owner has it; a negative number
# means that it has no end.
ACQUIRE: Final = LeaseScript("""
local owner, duration = ARGV[1], ARGV[2]
if redis.call('set', KEYS[1], owner, 'nx', 'px', duration) then return end
if redis.pcall('get', KEYS[1]) == owner then return end
return redis.call('pttl', KEYS[1])
""")

# Returns 1 if the lease was still ours and has been extended.
EXTEND: Final = LeaseScript("""
local owner, duration = ARGV[1], ARGV[2]
if redis.pcall('get', KEYS[1]) ~= owner then return 0 end
return redis.call('pexpire', KEYS[1], duration)
""")

# An access list may forbid us to publish. Then waiters learn of the release when they next ask.
RELEASE: Final = LeaseScript("""
local owner, channel = ARGV[1], ARGV[2]
if redis.pcall('get', KEYS[1]) ~= owner then return end
redis.call('del', KEYS[1])
redis.pcall('publish', channel, KEYS[1])
""")
