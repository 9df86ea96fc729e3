-- Marks messages as started, by handing them to the consumer's other name, '<consumer>!', and renews their leases.
--
-- KEYS   the streams that they lie in
-- ARGV   1  the consumer's other name
--        2  the key of the revoked task ids
--        3  how many messages there are, and then the task id of each
--        then for each stream: how many ids follow, and they; how many ids follow that have to be judged, and for each the
--        id and when it expires, '' when it must not be started
-- reply  nothing when all are started; else for each that is not: its place among the ids, from 0, and 0 when it is
--        nobody's any more; when it is still the consumer's, 2 when it is revoked, else 1
-- cost   a command for each stream, and two; one more where anything was ever revoked, and one or two for each that has to
--        be judged, or for each of all when one is revoked; the same when repeated
local started = ARGV[1]
local refused = {}
local at, place = 4 + ARGV[3], 0

local revoked = redis.call('EXISTS', ARGV[2]) == 1 and revoked_places(ARGV[2], ARGV, 4, at - 1) or {}

local function claim(key, ...)
  local claimed = redis.pcall('XCLAIM', key, GROUP, started, 0, ...)
  if claimed.err then
    if string.find(claimed.err, 'NOGROUP', 1, true) then
      return {} -- the stream is gone, and all that was in it
    end
    return redis.call('XCLAIM', key, GROUP, started, 0, ...) -- raises the server's own words
  end
  return claimed
end

local function refuse(code)
  refused[#refused + 1], refused[#refused + 2] = place, code
end

-- Starts one of which `code` is nil, if it is still the consumer's.
local function start(key, id, code)
  if revoked[4 + place] then
    code = 2
  end
  if code then
    local pending = redis.pcall('XPENDING', key, GROUP, id, id, 1)
    refuse(not pending.err and #pending > 0 and code or 0)
  elseif #claim(key, id, 'JUSTID') == 0 then
    refuse(0)
  end
  place = place + 1
end

local function start_all(key, from, to)
  local words = {unpack(ARGV, from, to)}
  local count = #words
  words[count + 1] = 'JUSTID'
  local claimed = claim(key, unpack(words))
  if #claimed < count then
    local ours = {}
    for _, id in ipairs(claimed) do
      ours[id] = true
    end
    for each = 1, count do
      if not ours[words[each]] then
        refuse(0)
      end
      place = place + 1
    end
  else
    place = place + count
  end
end

for _, key in ipairs(KEYS) do
  local count = tonumber(ARGV[at])
  if next(revoked) then
    for each = at + 1, at + count do
      start(key, ARGV[each])
    end
  else
    for from = at + 1, at + count, CHUNK do
      start_all(key, from, math.min(from + CHUNK - 1, at + count))
    end
  end
  at = at + count + 1
  local judged = tonumber(ARGV[at])
  at = at + 1
  for _ = 1, judged do
    local id, expires = ARGV[at], ARGV[at + 1]
    start(key, id, (expires == '' or tonumber(expires) <= now) and 1 or nil)
    at = at + 2
  end
end
if #refused > 0 then
  return refused
end
