-- Adds new messages, once, however often it is called for one batch. `enqueue_first.lua` stands before all this.
--
-- KEYS   the prefixes of the queues
-- ARGV   1  the sender's lane: batches of one lane are sent one after the other
--        2  the number of the batch, higher than any before
--        then runs of messages of one line and kind: the place of the queue in KEYS, the line, the kind, how many, and
--        for each, by kind:
--          e  the entry
--          s  the entry, when it is due, when it expires (see `publish`)
-- reply  how many lines were not in use before
-- cost   an XADD or ZADD for each message, and four to about ten commands for the batch
local at = 3
while ARGV[at] do
  local prefix, line, kind, count = KEYS[tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
  at = at + 4
  if kind == 'e' then
    opened(prefix).ready = true
    local key = stream(prefix, line)
    for place = at, at + count - 1 do
      redis.call('XADD', key, '*', 'e', ARGV[place])
    end
    at = at + count
  else
    for _ = 1, count do
      publish(prefix, line, ARGV[at], ARGV[at + 1], ARGV[at + 2])
      at = at + 3
    end
  end
end
wake_opened()
return new_lines
