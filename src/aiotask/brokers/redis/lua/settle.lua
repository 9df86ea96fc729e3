-- Ends handings-out: acknowledges, gives back, parks or buries, stores result rows and publishes follow-ups. One step,
-- done once, however often it is called for one batch. `store_row` stands before this text.
--
-- KEYS   the prefixes of the queues
-- ARGV   1  the consumer's lane, and 2 the number of the batch, as in enqueue.lua
--        then runs of one line and kind: the place of the queue in KEYS, the line, the kind, how many, and for each, by kind:
--          a  the id
--          r  the id, and a row: its key, itself, how long it is kept ('' for ever)
--          o  the id, a row (its key is '' when there is none), what becomes of the message, three words that belong to
--             that, how many follow-ups, and for each the place of its queue, its line, its entry, when it is due, when it expires
-- reply  the places of those that are nobody's any more, from 0; they have no effect
-- cost   for each an XACK, and a SET and a PUBLISH with a row; few more for those of kind o; about five for the batch
local lane = KEYS[1] .. 'fin:' .. ARGV[1]
local before = redis.call('GET', lane)
if before then
  local number, listed = string.match(before, '^(%d+):(.*)$')
  if number and tonumber(number) >= tonumber(ARGV[2]) then
    local again = {}
    for place in string.gmatch(listed, '%d+') do
      again[#again + 1] = tonumber(place)
    end
    return again
  end
end

local refused = {}
local place = 0
local at = 3

local function delete(key, ids)
  in_chunks(ids, function(...)
    redis.call('XDEL', key, ...)
  end)
end

local ended = {}

-- By name, what becomes of a message: its queue's prefix, its fields, three words.
function ended.ack() end

function ended.release(prefix, fields, line, delay_ms, losses)
  local queue = opened(prefix)
  fields = counted(fields, tonumber(losses), 1)
  if delay_ms == '0' then
    add(prefix, line, fields)
    queue.ready = true
    return
  end
  local due = now + delay_ms + 1
  delay(prefix, due, line, fields)
  if not queue.due or due < queue.due then
    queue.due, queue.sooner = due, true
  end
end

function ended.park(prefix, fields, name, priority)
  redis.call('SADD', prefix .. 'parked', name)
  redis.call('ZADD', prefix .. 'p:' .. name, priority, kept('', fields))
end

function ended.dead(prefix, _, id, letter)
  redis.call('XADD', prefix .. 'dead', '*', 'i', id, 'e', letter)
end

local writable = {}

-- By name, whether the message can go where it is to go: raises where it can't, before it is taken from where it is.
function writable.ack() end

function writable.release(prefix, line, delay_ms)
  redis.call(delay_ms == '0' and 'XLEN' or 'ZCARD', prefix .. (delay_ms == '0' and 's:' .. line or 'delayed'))
end

function writable.park(prefix, name)
  redis.call('SCARD', prefix .. 'parked')
  redis.call('ZCARD', prefix .. 'p:' .. name)
end

function writable.dead(prefix)
  redis.call('XLEN', prefix .. 'dead')
end

while ARGV[at] do
  local prefix, line, kind, count = KEYS[tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
  local key = prefix .. 's:' .. line
  at = at + 4
  if kind == 'o' then
    for _ = 1, count do
      local id, row, action = ARGV[at], ARGV[at + 1], ARGV[at + 4]
      local follow_ups = tonumber(ARGV[at + 8])
      writable[action](prefix, ARGV[at + 5], ARGV[at + 6])
      for each = at + 9, at + 8 + 5 * follow_ups, 5 do
        opened(KEYS[tonumber(ARGV[each])])
        redis.call('XLEN', KEYS[tonumber(ARGV[each])] .. 's:' .. ARGV[each + 1])
      end
      local fields = taken_back(key, id)
      if fields == nil then
        refused[#refused + 1] = place
      else
        if fields or action == 'dead' then
          ended[action](prefix, fields, ARGV[at + 5], ARGV[at + 6], ARGV[at + 7])
        end
        if row ~= '' then
          store_row(row, ARGV[at + 2], ARGV[at + 3])
        end
        for each = at + 9, at + 8 + 5 * follow_ups, 5 do
          publish(KEYS[tonumber(ARGV[each])], ARGV[each + 1], ARGV[each + 2], ARGV[each + 3], ARGV[each + 4])
        end
      end
      at = at + 9 + 5 * follow_ups
      place = place + 1
    end
  else
    local width = kind == 'r' and 4 or 1
    local done = {}
    for _ = 1, count do
      local id = ARGV[at]
      if redis.call('XACK', key, GROUP, id) == 1 then
        done[#done + 1] = id
        if width == 4 then
          store_row(ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
        end
      else
        refused[#refused + 1] = place
      end
      at = at + width
      place = place + 1
    end
    delete(key, done)
  end
end
wake_opened()
redis.call('SET', lane, ARGV[2] .. ':' .. table.concat(refused, ','), 'EX', 60)
return refused
