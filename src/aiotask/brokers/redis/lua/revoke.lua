-- Keeps task ids, of which begin.lua and receive.lua start no message.
--
-- KEYS   1  the revoked ids, in the order in which they came
-- ARGV   1  how many of them are kept, the newest
--        then the ids
-- reply  nothing
-- cost   a command for each five hundred ids, and two; the same when repeated
local kept = tonumber(ARGV[1])
local newest = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
local place = tonumber(newest[2] or 0)

local words = {}
for at = 2, #ARGV do
  words[#words + 1], words[#words + 2] = place + at, ARGV[at]
end
in_chunks(words, function(...)
  redis.call('ZADD', KEYS[1], ...)
end)
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -kept - 1)
