"""What the server does in one step: the Lua scripts.

Up to four keys belong to a user, all in one slot of a cluster. The *record* is a hash with the record and its version,
and, of the last login or creation, the version (``saved``) and the ticket. The *logout* is what stays of a record that
was deleted: a ticket, whether there was a record, and the marker's members. The *lease* is the name of its owner. The
*holders* are a hash of all who have taken the lease since a record was last written and have not given it back, with
the time at which the server last heard of each, in milliseconds.

A login or logout takes a *ticket* first: a number larger than that of every login or logout which has landed. It lands
only while that is so: one that was late in the network, and which a later one has overtaken, changes nothing.

redis-py sends a command again when the connection breaks before the reply. So each script may run twice, and does the
same as if it had run once.
"""

import hashlib
from typing import ClassVar, Final

# Redis 7 holds scripts to the server's min-replicas-to-write. Before it, a primary that a failover is about to replace
# goes on writing what will be lost. INFO has this line if the setting is not 0.
_REFUSED_WITHOUT_REPLICAS: Final = """
if not redis.REDIS_VERSION_NUM then
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


_LANDED: Final = """
local function landed()
  local saved = tonumber(redis.pcall('hget', KEYS[1], 'ticket')) or 0
  return math.max(saved, tonumber(redis.pcall('hget', KEYS[2], 'ticket')) or 0)
end
"""
"""The largest ticket of what has landed on the record, KEYS[1], or on the logout, KEYS[2]."""

# For a cluster: its client may send a plain read to a replica, which lags behind.
LOAD: Final = RecordScript("return redis.pcall('hmget', KEYS[1], 'version', 'record')", writes=False)

# On the record and the logout. Returns a ticket, the version and the record.
LOOK: Final = RecordScript(f"""{_LANDED}
local time = redis.call('time')
local ticket = math.max(time[1] * 1000000 + time[2], landed() + 1)
local found = redis.pcall('hmget', KEYS[1], 'version', 'record')
return {{string.format('%.0f', ticket), found[1] or false, found[2] or false}}
""")

# On the record, the logout and the holders. Returns 1 if the record was saved, now or when the same save was sent
# before; 0 if a later login or logout has landed. `saved` is the version with which the record was last saved or
# created. It tells a save that is sent again from a new one: the first must not undo the renewal that followed it.
SAVE: Final = RecordScript(f"""{_LANDED}
local version, record, lifetime, ticket = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
if redis.pcall('hget', KEYS[1], 'saved') == version then return 1 end
if tonumber(ticket) <= landed() then return 0 end
redis.call('del', KEYS[1], KEYS[2], KEYS[3])
redis.call('hset', KEYS[1], 'version', version, 'saved', version, 'record', record, 'ticket', ticket)
if lifetime > 0 then redis.call('pexpire', KEYS[1], lifetime) end
return 1
""")

# On the record, the logout and the holders. Returns 1 if the record was created, now or when the same creation was sent
# before; 0 if one is there; the marker of a logout, unless it is the one whose ticket the caller has seen.
CREATE: Final = RecordScript("""
local version, record, lifetime, seen = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
if redis.pcall('hget', KEYS[1], 'saved') == version then return 1 end
if redis.call('exists', KEYS[1]) == 1 then return 0 end
local logout = redis.call('hmget', KEYS[2], 'ticket', 'digest', 'ended_at')
if logout[3] and logout[1] ~= seen then return logout end
redis.call('del', KEYS[3])
redis.call('hset', KEYS[1], 'version', version, 'saved', version, 'record', record)
if lifetime > 0 then redis.call('pexpire', KEYS[1], lifetime) end
return 1
""")

# On the record and the holders. Returns 1 if the record was replaced, now or when the same replacement was sent before.
REPLACE: Final = RecordScript("""
local version, record, lifetime, expected = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local current = redis.pcall('hget', KEYS[1], 'version')
if current == version then return 1 end
if current ~= expected then return 0 end
redis.call('del', KEYS[2])
redis.call('hset', KEYS[1], 'version', version, 'record', record)
if lifetime > 0 then redis.call('pexpire', KEYS[1], lifetime) else redis.call('persist', KEYS[1]) end
return 1
""")

# On the record, the logout and the holders. Returns 1 if there was a record, and 0 if there was none or a later login
# or logout has landed, just as when the same deletion was sent before; -1 if the record is not the one expected. Where
# there was none, the marker of the logout before stays.
DELETE: Final = RecordScript(f"""{_LANDED}
local ticket, expected, lifetime, digest, ended_at = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local latest = tonumber(ARGV[6])
if redis.call('hget', KEYS[2], 'ticket') == ticket then return tonumber(redis.call('hget', KEYS[2], 'existed')) end
if tonumber(ticket) <= landed() then return 0 end
local existed = redis.call('exists', KEYS[1])
local current = redis.pcall('hget', KEYS[1], 'version')
if existed == 1 and type(current) == 'string' and current ~= expected then return -1 end
if existed == 1 then
  redis.call('del', KEYS[1], KEYS[3])
  redis.call('hset', KEYS[2], 'digest', digest, 'ended_at', ended_at)
end
redis.call('hset', KEYS[2], 'ticket', ticket, 'existed', existed)
redis.call('pexpire', KEYS[2], existed == 1 and lifetime or math.max(latest, redis.call('pttl', KEYS[2])))
return existed
""")

# On the lease and its holders. Returns 1 and for how many milliseconds another holder has not been heard of, or a
# negative number without one, if the lease is ours now. Otherwise 0 and the milliseconds for which another owner has
# it; a negative number means that it has no end.
ACQUIRE: Final = LeaseScript("""
local owner, duration, remembered = ARGV[1], ARGV[2], tonumber(ARGV[3])
if not redis.call('set', KEYS[1], owner, 'nx', 'px', duration) and redis.pcall('get', KEYS[1]) ~= owner then
  return {0, redis.call('pttl', KEYS[1])}
end
local time = redis.call('time')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local holders, silent = redis.call('hgetall', KEYS[2]), -1
for n = 1, #holders, 2 do
  local ago = math.max(now - tonumber(holders[n + 1]), 0)
  if ago > remembered then
    redis.call('hdel', KEYS[2], holders[n])
  elseif holders[n] ~= owner and (silent < 0 or ago < silent) then
    silent = ago
  end
end
redis.call('hset', KEYS[2], owner, string.format('%.0f', now))
redis.call('pexpire', KEYS[2], remembered)
return {1, silent}
""")

# On the lease and its holders. Returns 1 if the lease was still ours and has been extended.
EXTEND: Final = LeaseScript("""
local owner, duration, remembered = ARGV[1], ARGV[2], ARGV[3]
if redis.pcall('get', KEYS[1]) ~= owner then return 0 end
local time = redis.call('time')
redis.call('hset', KEYS[2], owner, string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
redis.call('pexpire', KEYS[2], remembered)
return redis.call('pexpire', KEYS[1], duration)
""")

# On the lease and its holders. An access list may forbid us to publish. Then waiters learn of the release when they
# next ask.
RELEASE: Final = LeaseScript("""
local owner, channel = ARGV[1], ARGV[2]
redis.call('hdel', KEYS[2], owner)
if redis.pcall('get', KEYS[1]) ~= owner then return end
redis.call('del', KEYS[1])
redis.pcall('publish', channel, KEYS[1])
""")
