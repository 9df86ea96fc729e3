-- Drops what waits in a queue, is delayed or parked: so many messages, to be called until it drops none.
--
-- KEYS   1  the prefix of the queue
-- reply  how many were dropped
-- cost   a few commands for each line and waiting line, and the time to delete at most a thousand of each
local MOST = 1000
local prefix = KEYS[1]
local dropped = 0

-- Returns from which id on a stream has not been handed out.
local function undelivered(key)
  local groups = redis.pcall('XINFO', 'GROUPS', key)
  if not groups.err then
    for _, group in ipairs(groups) do
      if group[2] == GROUP then
        return '(' .. group[8]
      end
    end
  end
  return '-'
end

for _, line in ipairs(redis.call('ZRANGE', prefix .. 'lines', 0, -1)) do
  local key = prefix .. 's:' .. line
  local ids = {}
  for each, entry in ipairs(redis.call('XRANGE', key, undelivered(key), '+', 'COUNT', MOST)) do
    ids[each] = entry[1]
  end
  in_chunks(ids, function(...)
    dropped = dropped + redis.call('XDEL', key, ...)
  end)
end
dropped = dropped + redis.call('ZREMRANGEBYRANK', prefix .. 'delayed', 0, MOST - 1)
for _, name in ipairs(redis.call('SMEMBERS', prefix .. 'parked')) do
  dropped = dropped + redis.call('ZREMRANGEBYRANK', prefix .. 'p:' .. name, 0, MOST - 1)
  if redis.call('EXISTS', prefix .. 'p:' .. name) == 0 then
    redis.call('SREM', prefix .. 'parked', name)
  end
end
return dropped
