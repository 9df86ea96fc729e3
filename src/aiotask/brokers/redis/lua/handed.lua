-- Says what a consumer has been handed and has not settled, started or not.
--
-- KEYS   the prefixes of the queues
-- ARGV   1  the consumer
-- reply  for each line with anything, once or twice: the place of the queue in KEYS, the line, the ids
-- cost   two commands for each line in use
local MOST = 100000 -- more than one consumer ever holds

local reply = {}
for at, prefix in ipairs(KEYS) do
  for _, line in ipairs(redis.call('ZRANGE', prefix .. 'lines', 0, -1)) do
    for _, name in ipairs({ARGV[1], ARGV[1] .. '!'}) do
      local pending = redis.pcall('XPENDING', prefix .. 's:' .. line, GROUP, '-', '+', MOST, name)
      local ids = {}
      for place, each in ipairs(pending) do
        ids[place] = each[1]
      end
      if #ids > 0 then
        reply[#reply + 1] = {at, line, ids}
      end
    end
  end
end
return reply
