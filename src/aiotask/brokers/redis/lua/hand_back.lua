-- Gives back all that a consumer has, ahead of what waits. What it had started counts as lost, if it has heard of it: what
-- was started by the step that handed it out, in a reply that was lost, has not run. Then forgets the consumer.
--
-- KEYS   the prefixes of all queues that it has taken from
-- ARGV   1  the consumer
--        then pairs of what it has heard of: the stream, the id
-- reply  nothing
-- cost   five commands for each message, about eight for each line in use; the same when repeated
local HANDED_BACK_AT_ONCE = 1000

local heard = {}
for at = 2, #ARGV, 2 do
  heard[ARGV[at] .. ' ' .. ARGV[at + 1]] = true
end

local function hand_back(prefix, line, name, started)
  local key = prefix .. 's:' .. line
  local ahead = string.match(line, '^(%d)r?$')
  repeat
    local pending = redis.pcall('XPENDING', key, GROUP, '-', '+', HANDED_BACK_AT_ONCE, name)
    if pending.err then
      return -- nothing was ever read from it
    end
    for _, each in ipairs(pending) do
      local lost = started and heard[key .. ' ' .. each[1]] and 1 or 0
      move(prefix, key, each[1], ahead and ahead .. 'r' or 'r', lost)
    end
  until #pending == 0
  redis.call('XGROUP', 'DELCONSUMER', key, GROUP, name)
end

for _, prefix in ipairs(KEYS) do
  for _, line in ipairs(redis.call('ZRANGE', prefix .. 'lines', 0, -1)) do
    hand_back(prefix, line, ARGV[1], false)
    hand_back(prefix, line, ARGV[1] .. '!', true)
  end
  redis.call('ZREM', prefix .. 'consumers', ARGV[1])
  wake(prefix) -- it may have taken a token along
end
