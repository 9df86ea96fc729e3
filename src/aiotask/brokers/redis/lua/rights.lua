-- Says what of all that the scripts do this user may not do: a step that is refused halfway would be half a step.
--
-- KEYS   1  the prefix of a queue
--        2  where a result row would lie; absent when none are stored
-- ARGV   1  the key of the revoked task ids: as one of KEYS it would be refused before anything is said
-- reply  nothing, or the command, the key, the server's words
-- cost   about forty commands, which leave nothing
local key = KEYS[1] .. 'rights'
local TRIED = {
  {'GET', key}, {'SET', key, '', 'XX', 'GET'}, {'TYPE', key}, {'EXISTS', key}, {'TIME'},
  {'XADD', key, 'NOMKSTREAM', '*', 'e', ''}, {'XLEN', key}, {'XRANGE', key, '-', '+'}, {'XREVRANGE', key, '+', '-'},
  {'XDEL', key, '0-1'}, {'XACK', key, GROUP, '0-1'}, {'XPENDING', key, GROUP}, {'XINFO', 'GROUPS', key},
  {'XINFO', 'CONSUMERS', key, GROUP}, {'XCLAIM', key, GROUP, 'rights', 0, '0-1'},
  {'XREADGROUP', 'GROUP', GROUP, 'rights', 'STREAMS', key, '>'}, {'XGROUP', 'CREATE', key, GROUP, 0},
  {'XGROUP', 'DELCONSUMER', key, GROUP, 'rights'},
  {'ZADD', key, 'XX', 0, ''}, {'ZRANGE', key, 0, 0}, {'ZRANGEBYSCORE', key, 0, 0}, {'ZCARD', key}, {'ZCOUNT', key, 0, 0},
  {'ZREM', key, ''}, {'ZREMRANGEBYRANK', key, 0, 0}, {'ZREMRANGEBYSCORE', key, 0, 0},
  {'SMEMBERS', key}, {'SREM', key, ''}, {'SADD', key, ''}, {'DEL', key},
  {'LLEN', key}, {'LPUSH', key, ''}, {'DEL', key},
  {'HGETALL', key}, {'HSET', key, '', ''}, {'DEL', key},
  {'EXISTS', ARGV[1]}, {'ZMSCORE', ARGV[1], ''},
}
if redis.call('EXISTS', key) == 1 then
  return -- it is somebody's, and not to be touched
end
if KEYS[2] then
  TRIED[#TRIED + 1] = {'GETRANGE', KEYS[2], 0, 0}
  TRIED[#TRIED + 1] = {'SET', KEYS[2], '', 'XX'}
  TRIED[#TRIED + 1] = {'PUBLISH', KEYS[2], ''}
end

local REFUSALS = {'NOPERM', "The user executing the script can't", 'ACL failure in script'} -- versions differ

for _, words in ipairs(TRIED) do
  local answer = redis.pcall(unpack(words))
  local err = type(answer) == 'table' and answer.err
  for _, refusal in ipairs(REFUSALS) do
    if err and string.find(err, refusal, 1, true) then
      return {words[1], words[2] or '', err}
    end
  end
end
