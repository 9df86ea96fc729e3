-- Hands out what is due, line by line, without waiting, and starts what it may of it: see begin.lua.
--
-- KEYS   the prefixes of the queues
-- ARGV   1  the consumer
--        2  how many at most
--        3  of how many of the first those are started that need no judging
--        4  the key of the revoked task ids
-- reply  how many ms until the next is due, -1 when none waits; then for each line with anything, in one or several parts:
--        the place of the queue in KEYS, the line, the entries, 1 when they are started, else 0
-- cost   about six commands, one or two for each line in use, one more where anything was ever revoked, one for each
--        message that is not started though it is one of the first, and two for each that is promoted
local LATER = 5000 -- everybody asks again after so long

local consumer, limit, starts = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local started = consumer .. '!'

local function read(key, name, count)
  local command = {'XREADGROUP', 'GROUP', GROUP, name, 'COUNT', count, 'STREAMS', key, '>'}
  local got = redis.pcall(unpack(command))
  if got and got.err and string.find(got.err, 'NOGROUP', 1, true) then
    redis.call('XGROUP', 'CREATE', key, GROUP, 0, 'MKSTREAM')
    got = redis.pcall(unpack(command))
  end
  if got and got.err then
    return nil, got
  end
  return got and got[1][2] or {}
end

-- What was lost after a start, or is past its time, is judged by who starts it; so is what was revoked.
local function needs_judging(fields)
  if #fields == 2 then
    return false
  end
  local counts, expires = field(fields, 'n'), field(fields, 'x')
  return counts ~= '' and string.sub(counts, 1, 2) ~= '0:' or expires ~= '' and (tonumber(expires) or 0) <= now
end

local any_revoked = starts > 0 and redis.call('EXISTS', ARGV[4]) == 1

-- Returns the task id in a message, packed by entries.py: an array of four, and first a text of up to 255 bytes. nil is
-- for what is packed otherwise, which the adapter may be able to read.
local function task_id(packed)
  local four, kind, size = string.byte(packed, 1, 3)
  if four ~= 0x94 or not kind then
    return nil
  elseif kind == 0xd9 and size then
    return string.sub(packed, 4, 3 + size)
  elseif kind >= 0xa0 and kind <= 0xbf then
    return string.sub(packed, 3, kind - 0x9e)
  end
end

-- Returns the places of the entries whose task is revoked, or may be.
local function find_revoked(entries)
  local ids = {}
  for place, entry in ipairs(entries) do
    ids[place] = task_id(field(entry[2], 'e')) or ''
  end
  local places = revoked_places(ARGV[4], ids, 1, #ids)
  for place, id in ipairs(ids) do
    if id == '' then
      places[place] = true
    end
  end
  return places
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

local function hand_out(line, entries, is_started)
  if #entries > 0 then
    reply[#reply + 1] = {line[2], line[3], entries, is_started}
  end
end

-- Hands out what was read as started, but for what has to be judged.
local function hand_out_started(line, key, entries)
  local part = {}
  local revoked = any_revoked and find_revoked(entries) or {}
  for place, entry in ipairs(entries) do
    if revoked[place] or needs_judging(entry[2]) then
      redis.call('XCLAIM', key, GROUP, consumer, 0, entry[1], 'JUSTID')
      hand_out(line, part, 1)
      hand_out(line, {entry}, 0)
      part = {}
    else
      part[#part + 1] = entry
    end
  end
  hand_out(line, part, 1)
end

for _, line in ipairs(lines) do
  if taken >= limit then
    break
  end
  local key = KEYS[line[2]] .. 's:' .. line[3]
  local startable = line[3] == 'r' and 0 or math.min(starts, limit) - taken
  local some_left = true
  if startable > 0 then
    local entries, refused = read(key, started, startable)
    if refused then
      return refused
    end
    hand_out_started(line, key, entries)
    taken = taken + #entries
    some_left = #entries == startable and taken < limit
  end
  if some_left then
    local entries, refused = read(key, consumer, limit - taken)
    if refused then
      return refused
    end
    hand_out(line, entries, 0)
    taken = taken + #entries
  end
end

-- There may be more, or soon be more, and who has got something may be busy then: somebody else is to look.
if taken > 0 and (taken >= limit or next_due and next_due - now <= LATER) then
  for _, prefix in ipairs(KEYS) do
    wake(prefix)
  end
end
return reply
