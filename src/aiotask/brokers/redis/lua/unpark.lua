-- Hands out what is parked, by way of the line `u`, which only this script reads.
--
-- KEYS   the prefixes of the queues
-- ARGV   1  the consumer
--        then pairs: the name of a waiting line, how many of it at most
-- reply  for each message: the place of its queue in KEYS, the place of its waiting line among the pairs, the entries (one)
-- cost   a command for each queue and waiting line, three for each message
local reply = {}

-- By priority, then as they were parked.
local function comes_first(one, other)
  if one.priority ~= other.priority then
    return one.priority < other.priority
  end
  if one.at ~= other.at then
    return one.at < other.at
  end
  return one.place < other.place
end

local function candidates(name, limit)
  local found = {}
  for at, prefix in ipairs(KEYS) do
    local first = redis.call('ZRANGE', prefix .. 'p:' .. name, 0, limit - 1, 'WITHSCORES')
    for each = 1, #first, 2 do
      local parked = kept_read(first[each])
      parked.queue, parked.member, parked.priority = at, first[each], tonumber(first[each + 1])
      found[#found + 1] = parked
    end
  end
  table.sort(found, comes_first)
  return found
end

local function hand_out(prefix, name, parked)
  local waiting = prefix .. 'p:' .. name
  redis.call('ZREM', waiting, parked.member)
  local key = stream(prefix, 'u')
  redis.call('XADD', key, '*', unpack(parked.fields))
  local got = redis.pcall('XREADGROUP', 'GROUP', GROUP, ARGV[1], 'COUNT', 1, 'STREAMS', key, '>')
  if got.err then
    redis.call('XGROUP', 'CREATE', key, GROUP, 0)
    got = redis.call('XREADGROUP', 'GROUP', GROUP, ARGV[1], 'COUNT', 1, 'STREAMS', key, '>')
  end
  if redis.call('EXISTS', waiting) == 0 then
    redis.call('SREM', prefix .. 'parked', name)
  end
  return got[1][2]
end

for at = 2, #ARGV, 2 do
  local name, limit = ARGV[at], tonumber(ARGV[at + 1])
  local found = candidates(name, limit)
  for each = 1, math.min(limit, #found) do
    local parked = found[each]
    reply[#reply + 1] = {parked.queue, at / 2 - 1, hand_out(KEYS[parked.queue], name, parked)}
  end
end
return reply
