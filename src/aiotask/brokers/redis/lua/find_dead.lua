-- Looks for the dead letters of some tasks, a page at a time, the newest first.
--
-- KEYS   1  the prefix of the queue
-- ARGV   1  where to begin: '+', then what the reply says
--        2  how many letters to look at
--        then the ids of the tasks
-- reply  where to go on, '' at the end; then the entries found
-- cost   one command, and the time to read so many letters
local wanted = {}
for at = 3, #ARGV do
  wanted[ARGV[at]] = true
end
local letters = redis.call('XREVRANGE', KEYS[1] .. 'dead', ARGV[1], '-', 'COUNT', ARGV[2])
local reply = {#letters == tonumber(ARGV[2]) and '(' .. letters[#letters][1] or ''}
for _, letter in ipairs(letters) do
  if wanted[field(letter[2], 'i')] then
    reply[#reply + 1] = letter
  end
end
return reply
