-- Puts dead letters back as new messages.
--
-- KEYS   1  the prefix of the queue
-- ARGV   three for each letter: the id of its entry, the line that it goes to, the message's entry
-- reply  the places of those that were still there, from 0
-- cost   two commands for each
local replayed = {}
for at = 1, #ARGV, 3 do
  if redis.call('XDEL', KEYS[1] .. 'dead', ARGV[at]) == 1 then
    publish(KEYS[1], ARGV[at + 1], ARGV[at + 2], '', '')
    replayed[#replayed + 1] = (at - 1) / 3
  end
end
wake_opened()
return replayed
