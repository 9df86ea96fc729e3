-- Stores result rows by the rule of `store_row`, which stands before this text.
--
-- KEYS   where the rows lie, in the order in which they are to be stored; one may come several times
-- ARGV   two for each key: the row, and how many milliseconds it is kept, '' for ever
-- reply  how many were stored; the others met a final state
-- cost   see `store_row`, for each
local stored = 0
for at, key in ipairs(KEYS) do
  if store_row(key, ARGV[2 * at - 1], ARGV[2 * at]) then
    stored = stored + 1
  end
end
return stored
