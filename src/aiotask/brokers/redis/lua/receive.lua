-- Hands out what is due, line by line, without waiting.
--
-- KEYS   the prefixes of the queues
-- ARGV   1  the consumer
--        2  how many at most
-- reply  how many ms until the next is due, -1 when none waits; then for each line with anything: the place of the queue in
--        KEYS, the line, the entries
-- cost   about five commands, one for each line in use, and two for each message that is promoted
local LATER = 5000 -- everybody asks again after so long

local consumer, limit = ARGV[1], tonumber(ARGV[2])

local function read(key, count)
  return redis.pcall('XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', count, 'STREAMS', key, '>')
end

local next_due
local lines = {}
for at, prefix in ipairs(KEYS) do
  local due = promote(prefix)
  if due and (not next_due or due < next_due) then
    next_due = due
  end
  local in_use = redis.call('ZRANGE', prefix .. 'lines', 0, -1, 'WITHSCORES')
  for place = 1, #in_use, 2 do
    local line = in_use[place]
    if line == 'r' or string.match(line, '^%dr?$') then -- 'u' is unpark's, and anything else another program's
      lines[#lines + 1] = {tonumber(in_use[place + 1]), at, line}
    end
  end
end
if #KEYS > 1 then
  table.sort(lines, function(one, other)
    return one[1] < other[1] or one[1] == other[1] and one[2] < other[2]
  end)
end

local reply = {next_due and math.max(0, next_due - now) or -1}
local taken = 0
for _, line in ipairs(lines) do
  if taken >= limit then
    break
  end
  local key = KEYS[line[2]] .. 's:' .. line[3]
  local got = read(key, limit - taken)
  if got and got.err and string.find(got.err, 'NOGROUP', 1, true) then
    redis.call('XGROUP', 'CREATE', key, GROUP, 0, 'MKSTREAM')
    got = read(key, limit - taken)
  end
  if got then
    if got.err then
      return got
    end
    local entries = got[1][2]
    taken = taken + #entries
    reply[#reply + 1] = {line[2], line[3], entries}
  end
end

-- There may be more, or soon be more, and who has got something may be busy then: somebody else is to look.
if taken > 0 and (taken >= limit or next_due and next_due - now <= LATER) then
  for _, prefix in ipairs(KEYS) do
    wake(prefix)
  end
end
return reply
