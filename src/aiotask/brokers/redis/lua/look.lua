-- Looks for lapsed leases, and lets it be known that a consumer is there.
--
-- KEYS   the prefixes of the queues that it takes from
-- ARGV   1  the consumer, '<lease in ms>:<name>'
--        2  how long it counts as present, ms
--        3  how long until it looks again at the latest, ms
-- reply  how many ms until the next look is due, how many messages were reclaimed
-- cost   three commands for each queue; where nobody else has looked, three more and one for each line, two for each
--        consumer that has messages, five for each message that is reclaimed
local EMPTY_AFTER = 60000 -- a consumer without messages is forgotten after a lease and so long

local consumer, interval = ARGV[1], tonumber(ARGV[3])
local reclaimed = 0

-- Takes the messages of a consumer whose lease has lapsed, and puts them ahead of all. A start of one is a loss.
local function reclaim_lapsed(prefix, key, name, lapsed)
  local started = string.sub(name, -1) == '!' and 1 or 0
  for _, pending in ipairs(lapsed) do
    move(prefix, key, pending[1], 'r', started)
  end
  reclaimed = reclaimed + #lapsed
  wake(prefix)
end

-- Looks for lapsed leases; returns the ms until the next look.
--
-- Time that passed for nobody is no fault of the owner's: the server stood still, was restarted, its clock was set, or
-- nobody was there to look. So a lease that is found lapsed after a gap of more than half its length is only noted, and is
-- lost when half its length later it still is. Looks are a quarter of the shortest lease apart, whoever makes them.
local function reclaim(prefix)
  local look = {}
  local stored = redis.call('HGETALL', prefix .. 'look')
  for at = 1, #stored, 2 do
    look[stored[at]] = tonumber(stored[at + 1])
  end
  local last, planned = look['last'], look['next']
  if last and planned and last <= now and now < planned and now - last < interval then
    return planned - now
  end
  local gap = last and last <= now and now - last or math.huge
  local soonest = interval
  local noted = {}
  for _, line in ipairs(redis.call('ZRANGE', prefix .. 'lines', 0, -1)) do
    local key = prefix .. 's:' .. line
    local consumers = redis.pcall('XINFO', 'CONSUMERS', key, GROUP)
    if consumers.err then
      consumers = {} -- nothing was ever read from it
    end
    for _, known_as in ipairs(consumers) do
      local name, pending, idle = known_as[2], known_as[4], known_as[6]
      local lease = tonumber(string.match(name, '^(%d+):'))
      if lease and pending == 0 then
        if idle > lease + EMPTY_AFTER then
          redis.call('XGROUP', 'DELCONSUMER', key, GROUP, name)
        end
      elseif lease then
        soonest = math.min(soonest, math.max(1, math.floor(lease / 4)))
        local lapsed = redis.call('XPENDING', key, GROUP, 'IDLE', lease, '-', '+', 100, name)
        if #lapsed > 0 then
          local since = look[name]
          if gap > lease / 2 then
            noted[name] = now
          elseif since and now - since < lease / 2 then
            noted[name] = since
          else
            reclaim_lapsed(prefix, key, name, lapsed)
            if #lapsed == 100 then
              soonest, noted[name] = 0, since
            end
          end
        end
      end
    end
  end
  local fields = {'last', now, 'next', now + soonest}
  for name, since in pairs(noted) do
    fields[#fields + 1], fields[#fields + 2] = name, since
  end
  redis.call('DEL', prefix .. 'look')
  redis.call('HSET', prefix .. 'look', unpack(fields))
  return soonest
end

local next_look = interval
for _, prefix in ipairs(KEYS) do
  redis.call('ZREMRANGEBYSCORE', prefix .. 'consumers', '-inf', now)
  redis.call('ZADD', prefix .. 'consumers', now + ARGV[2], consumer)
  next_look = math.min(next_look, reclaim(prefix))
end
return {next_look, reclaimed}
