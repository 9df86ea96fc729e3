-- What the scripts have in common, to stand at their head. The keys of a queue begin with its prefix, `aiotask:{name}:`;
-- keys.py says what each is. An entry of a stream has the fields
--
--   e  the message, packed by the adapter; nothing here reads it
--   x  when it expires, milliseconds since the epoch; absent: never
--   n  how often it was lost after a start, and handed out before, '1:2'; absent: '0:0'
--
-- A script that has to work in a server without memory begins with a write that needs none: after it, the others are let
-- through (Redis checks `maxmemory` for the first write of a script alone).
local GROUP = 'w'
local CHUNK = 1000 -- Lua's `unpack` has a limit
local PROMOTED_MOST = 100 -- due messages in one go, so that no call takes long

local function clock_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local now_us = clock_us()
local now = math.floor(now_us / 1000)

-- Lines are read in this order: reclaimed messages, then for each priority those that were given back and the rest.
local function rank(line)
  local priority, ahead = string.match(line, '^(%d)(r?)$')
  if priority then
    return ahead == 'r' and priority or priority .. '.5'
  end
  return line == 'r' and '-1' or '99'
end

local known = {}
local new_lines = 0

-- Returns the key of a line's stream; lets it be known that the line is in use.
local function stream(prefix, line)
  local key = prefix .. 's:' .. line
  if not known[key] then
    known[key] = true
    new_lines = new_lines + redis.call('ZADD', prefix .. 'lines', 'NX', rank(line), line)
  end
  return key
end

-- Calls `run` with what is in `list` as arguments, in several goes where it is long.
local function in_chunks(list, run)
  for from = 1, #list, CHUNK do
    run(unpack(list, from, math.min(from + CHUNK - 1, #list)))
  end
end

-- Lets one of those who wait look again.
local function wake(prefix)
  local key = prefix .. 'wake'
  if redis.call('LLEN', key) == 0 then
    redis.call('LPUSH', key, '')
  end
end

local function add(prefix, line, fields)
  redis.call('XADD', stream(prefix, line), '*', unpack(fields))
end

local function entry_fields(entry, expires, counts)
  local fields = {'e', entry}
  if expires ~= '' then
    fields[3], fields[4] = 'x', expires
  end
  if counts ~= '' then
    fields[#fields + 1], fields[#fields + 2] = 'n', counts
  end
  return fields
end

-- Returns the fields of an entry with its counts raised by so many losses and deliveries.
local function counted(fields, losses, deliveries)
  local again = {}
  for at = 1, #fields, 2 do
    if fields[at] == 'n' then
      local lost, delivered = string.match(string.sub(fields[at + 1], 1, 20), '^(%d+):(%d+)$')
      losses, deliveries = losses + (lost or 0), deliveries + (delivered or 0)
    else
      again[#again + 1], again[#again + 2] = fields[at], fields[at + 1]
    end
  end
  if losses > 0 or deliveries > 0 then
    again[#again + 1], again[#again + 2] = 'n', string.format('%d:%d', losses, deliveries)
  end
  return again
end

local function field(fields, name)
  for at = 1, #fields, 2 do
    if fields[at] == name then
      return fields[at + 1]
    end
  end
  return ''
end

-- Returns the places in `list`, from one to another, of those task ids that are in the set of the revoked.
local function revoked_places(revoked, list, from, to)
  local places = {}
  for first = from, to, CHUNK do
    local found = redis.call('ZMSCORE', revoked, unpack(list, first, math.min(first + CHUNK - 1, to)))
    for each = 1, #found do
      if found[each] then
        places[first + each - 1] = true
      end
    end
  end
  return places
end

local kept_here = 0

-- Packs a message to be kept outside of a stream. Among others of the same score it sorts by when it was packed.
local function kept(line, fields)
  kept_here = kept_here + 1
  return cmsgpack.pack({now_us, kept_here, line, unpack(fields)})
end

-- Reads what `kept` has packed. What somebody else has written becomes an entry that a worker buries.
local function kept_read(member)
  local readable, message = pcall(cmsgpack.unpack, member)
  readable = readable and type(message) == 'table' and #message > 4 and #message % 2 == 1
    and type(message[1]) == 'number' and type(message[2]) == 'number'
  for at = 3, readable and #message or 0 do
    readable = readable and type(message[at]) == 'string'
  end
  if not readable then
    return {at = 0, place = 0, line = '', fields = {'e', member}}
  end
  return {at = message[1], place = message[2], line = message[3], fields = {unpack(message, 4)}}
end

-- Keeps a message until it is due.
local function delay(prefix, due, line, fields)
  redis.call('ZADD', prefix .. 'delayed', due, kept(line, fields))
end

-- Puts what is due at the ends of its lines. Returns when the next is due, nil without one, and whether any was.
local function promote(prefix)
  local key = prefix .. 'delayed'
  local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  if not first[1] then
    return nil, false
  end
  if tonumber(first[2]) > now then
    return tonumber(first[2]), false
  end
  local due = redis.call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, PROMOTED_MOST)
  redis.call('ZREMRANGEBYRANK', key, 0, #due - 1)
  for _, member in ipairs(due) do
    local message = kept_read(member)
    add(prefix, string.match(message.line, '^%dr?$') or '5', message.fields)
  end
  first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  return tonumber(first[2]), true
end

local queues = {}

-- Returns what is known of a queue that something is added to. What was due before stands ahead.
local function opened(prefix)
  local queue = queues[prefix]
  if not queue then
    queue = {}
    queue.due, queue.ready = promote(prefix)
    queues[prefix] = queue
  end
  return queue
end

-- Adds a new message. `due` and `expires` are milliseconds since the epoch, with a '+' from now; '' is none.
local function publish(prefix, line, entry, due, expires)
  local queue = opened(prefix)
  if string.sub(expires, 1, 1) == '+' then
    expires = string.format('%d', now + string.sub(expires, 2))
  end
  if string.sub(due, 1, 1) == '+' then
    due = now + string.sub(due, 2) + 1 -- `now` is up to a millisecond ago, and early is wrong
  else
    due = tonumber(due)
  end
  local fields = entry_fields(entry, expires, '')
  if due and due > now then
    delay(prefix, due, line, fields)
    if not queue.due or due < queue.due then
      queue.due, queue.sooner = due, true
    end
  else
    add(prefix, line, fields)
    queue.ready = true
  end
end

-- Wakes those who wait for what was added.
local function wake_opened()
  for prefix, queue in pairs(queues) do
    if queue.ready or queue.sooner then
      wake(prefix)
    end
  end
end

-- Ends an entry that is handed out. Returns its fields, false when somebody has deleted it, and nil when it is nobody's
-- any more: this is the fence.
local function taken_back(key, id)
  if redis.call('XACK', key, GROUP, id) == 0 then
    return nil
  end
  local entries = redis.call('XRANGE', key, id, id)
  redis.call('XDEL', key, id)
  return entries[1] ~= nil and entries[1][2]
end

-- Puts a message that is handed out at the end of another line, with another id: who had it has it no longer.
local function move(prefix, key, id, line, losses)
  redis.call('XLEN', prefix .. 's:' .. line) -- raises before anything is done where the message can't go
  local fields = taken_back(key, id)
  if fields then
    add(prefix, line, counted(fields, losses, 1))
  end
end
