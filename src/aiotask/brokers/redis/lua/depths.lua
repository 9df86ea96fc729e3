-- Counts what queues hold.
--
-- KEYS   the prefixes of the queues
-- reply  five numbers for each: ready, delayed, parked, handed out, dead
-- cost   two commands for each line in use and one for each waiting line, four for each queue
local reply = {}
for _, prefix in ipairs(KEYS) do
  local stored, reserved, parked = 0, 0, 0
  for _, line in ipairs(redis.call('ZRANGE', prefix .. 'lines', 0, -1)) do
    stored = stored + redis.call('XLEN', prefix .. 's:' .. line)
    local pending = redis.pcall('XPENDING', prefix .. 's:' .. line, GROUP)
    reserved = reserved + (pending.err and 0 or pending[1])
  end
  for _, name in ipairs(redis.call('SMEMBERS', prefix .. 'parked')) do
    parked = parked + redis.call('ZCARD', prefix .. 'p:' .. name)
  end
  local due = redis.call('ZCOUNT', prefix .. 'delayed', '-inf', now)
  local delayed = redis.call('ZCARD', prefix .. 'delayed') - due
  reply[#reply + 1] = {stored - reserved + due, delayed, parked, reserved, redis.call('XLEN', prefix .. 'dead')}
end
return reply
