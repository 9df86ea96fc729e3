-- Says which key of some queues is of another type than it should be: it belongs to another program.
--
-- KEYS   1  the revoked task ids
--        then the prefixes of the queues
-- reply  nothing, or the key, its type, and the type that it should have
-- cost   about thirty commands for each queue
local TYPES = {
  lines = 'zset', delayed = 'zset', wake = 'list', consumers = 'zset', look = 'hash', parked = 'set', dead = 'stream',
}

local LINES = {'r', 'u'}
for priority = 0, 9 do
  LINES[#LINES + 1] = priority .. 'r'
  LINES[#LINES + 1] = tostring(priority)
end

local function differs(key, wanted)
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= wanted then
    return {key, found, wanted}
  end
end

local revoked = differs(KEYS[1], 'zset')
if revoked then
  return revoked
end
for place = 2, #KEYS do
  local prefix = KEYS[place]
  for name, wanted in pairs(TYPES) do
    local stranger = differs(prefix .. name, wanted)
    if stranger then
      return stranger
    end
  end
  for _, line in ipairs(LINES) do
    local stranger = differs(prefix .. 's:' .. line, 'stream')
    if stranger then
      return stranger
    end
  end
  for _, name in ipairs(redis.call('SMEMBERS', prefix .. 'parked')) do
    local stranger = differs(prefix .. 'p:' .. name, 'zset')
    if stranger then
      return stranger
    end
  end
end
