-- How enqueue.lua begins, before the functions of queue.lua: to make them takes longer than what most calls do.
--
-- Sees to it that a batch has its effect once, and adds it when all of it goes to one line that is in use, at once, and
-- nothing is delayed in that queue. See enqueue.lua for KEYS, ARGV and reply.
local lane = KEYS[1] .. 'pub:' .. ARGV[1]
-- The first write is refused when there is no memory, and with it all.
local before = redis.call('SET', lane, ARGV[2], 'EX', 60, 'GET')
if before and tonumber(before) >= tonumber(ARGV[2]) then
  redis.call('SET', lane, before, 'EX', 60)
  return 0
end
if ARGV[5] == 'e' and tonumber(ARGV[6]) == #ARGV - 6 and redis.call('EXISTS', KEYS[1] .. 'delayed') == 0 then
  local line = KEYS[1] .. 's:' .. ARGV[4]
  if redis.call('XADD', line, 'NOMKSTREAM', '*', 'e', ARGV[7]) then
    for at = 8, #ARGV do
      redis.call('XADD', line, '*', 'e', ARGV[at])
    end
    if redis.call('LLEN', KEYS[1] .. 'wake') == 0 then
      redis.call('LPUSH', KEYS[1] .. 'wake', '')
    end
    return 0
  end
end
