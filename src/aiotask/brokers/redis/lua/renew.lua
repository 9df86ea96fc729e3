-- Extends leases to a full one from now, each under the name that it has, so that a start is not taken back.
--
-- KEYS   the prefixes of the queues that the consumer takes from, then the streams that its messages lie in
-- ARGV   1  the consumer
--        2  how long it counts as present, ms
--        3  how many of KEYS are prefixes
--        then for each stream: how many ids follow, and they
-- reply  the places of those that are nobody's any more, or another's, among the ids, from 0
-- cost   four commands for each stream, two for each queue; the same when repeated
local MOST = 100000 -- more than one consumer ever holds

local consumer, prefixes = ARGV[1], tonumber(ARGV[3])
local gone = {}
local at, place = 4, 0

local function extend(key, name, wanted)
  local found = {}
  local pending = redis.pcall('XPENDING', key, GROUP, '-', '+', MOST, name)
  if pending.err then
    pending = {} -- the stream is gone, and all that was in it
  end
  for _, each in ipairs(pending) do
    if wanted[each[1]] then
      wanted[each[1]] = nil
      found[#found + 1] = each[1]
    end
  end
  in_chunks(found, function(...)
    local words = {...}
    words[#words + 1] = 'JUSTID'
    redis.call('XCLAIM', key, GROUP, name, 0, unpack(words))
  end)
end

for stream_at = prefixes + 1, #KEYS do
  local count = tonumber(ARGV[at])
  local wanted = {}
  for each = 1, count do
    wanted[ARGV[at + each]] = place
    place = place + 1
  end
  extend(KEYS[stream_at], consumer, wanted)
  extend(KEYS[stream_at], consumer .. '!', wanted)
  for _, missing in pairs(wanted) do
    gone[#gone + 1] = missing
  end
  at = at + count + 1
end
for each = 1, prefixes do
  redis.call('ZREMRANGEBYSCORE', KEYS[each] .. 'consumers', '-inf', now)
  redis.call('ZADD', KEYS[each] .. 'consumers', now + ARGV[2], consumer)
end
return gone
