-- The rule of result rows, to stand at the head of a script: `store_row(key, data, expires_ms)`.
--
-- key         where the row lies, and the channel that tells of it
-- data        the row
-- expires_ms  how long it is kept, '' for ever
-- returns     true when it was stored and published; false when a final state is there, which nothing replaces
-- cost        a SET and a PUBLISH; two commands more where there is a row already, however long that is
--
-- A row begins with its status, also one of Celery's, so that its first bytes tell whether it is final. Anything else
-- that lies there, of whatever type, is replaced.
local FINAL = {SUCCESS = true, FAILURE = true, REVOKED = true, ABORTED = true}

local function store_row(key, data, expires_ms)
  local stored
  if expires_ms == '' then
    stored = redis.call('SET', key, data, 'NX')
  else
    stored = redis.call('SET', key, data, 'NX', 'PX', expires_ms)
  end
  if not stored then
    local head = redis.pcall('GETRANGE', key, 0, 40)
    if type(head) == 'string' and FINAL[string.match(head, '^%s*{%s*"status"%s*:%s*"(%u+)"')] then
      return false
    end
    if expires_ms == '' then
      redis.call('SET', key, data)
    else
      redis.call('SET', key, data, 'PX', expires_ms)
    end
  end
  redis.pcall('PUBLISH', key, data) -- whoever waits looks from time to time; what is done must not end halfway for it
  return true
end
