-- What workers have in common. The registry (w), the log (l) and its end (n), what workers listen to (h in order, q what
-- each gets) and burials (y) are in one slot, each inbox (in) and its counters (c) in one of its own. A hash or sorted set
-- that may be emptied and used again holds a field with the empty name; see the store's functions.

local UNLISTEN_MAX = 1000
local INBOX_ENTRY_BYTES = 64
local COUNTERS_KEPT_MS = 86400000

-- keys: w n y. args: run, name
function ops.join(k, a)
  if rcall('HEXISTS', k[3], a[1]) == 1 then return 'B' end
  local now = time_ms()
  rcall('HSET', k[1], a[1], cmsgpack.pack({ a[2], 0, now, now }))
  return tonumber(rcall('GET', k[2]) or '0')
end

-- keys: w n y. args: run, how far the log is applied, how long the lease is
function ops.renew(k, a)
  local now_us, expelled, members = time_us(), 1, {}
  local now = math.floor(now_us / 1000)
  local mine = rcall('HGET', k[1], a[1])
  if mine and rcall('HEXISTS', k[3], a[1]) == 0 then
    expelled = 0
    local name = cmsgpack.unpack(mine)[1]
    rcall('HSET', k[1], a[1], cmsgpack.pack({ name, tonumber(a[2]), now + tonumber(a[3]), now }))
  end
  local all = rcall('HGETALL', k[1])
  for at = 1, #all, 2 do
    local m = cmsgpack.unpack(all[at + 1])
    members[#members + 1] = { all[at], m[1], m[2], m[3] > now and 1 or 0, math.max(0, now - m[4]) }
  end
  return { expelled, tonumber(rcall('GET', k[2]) or '0'), members, now_us }
end

local function log(l, n, entries_max, bytes)
  local last = rcall('INCR', n)
  rcall('XADD', l, 'MAXLEN', '~', entries_max, last .. '-0', 'd', bytes)
  return last
end

-- keys: w n l h q. args: run, entries that the log may have, how many come, whether each is of what the worker listens
-- to and what it says, then how many changes of that, and for each worker and filter, and what it gets or ''.
function ops.append(k, a)
  local member = rcall('HEXISTS', k[1], a[1]) == 1
  local at, last = 4, tonumber(rcall('GET', k[2]) or '0')
  for _ = 1, tonumber(a[3]) do
    if member or a[at] == '0' then last = log(k[3], k[2], a[2], a[at + 1]) end
    at = at + 2
  end
  if member and a[at + 1] then
    rcall('ZADD', k[4], 0, '')
    rcall('HSET', k[5], '', '')
    for change = at + 1, #a, 2 do
      if a[change + 1] == '' then
        rcall('ZREM', k[4], a[change])
        rcall('HDEL', k[5], a[change])
      else
        rcall('ZADD', k[4], 0, a[change])
        rcall('HSET', k[5], a[change], a[change + 1])
      end
    end
  end
  return last
end

-- keys: h q. args: after which, how many
function ops.listening(k, a)
  local names, answers = rcall('ZRANGEBYLEX', k[1], '(' .. a[1], '+', 'LIMIT', 0, a[2]), {}
  for _, name in ipairs(names) do
    answers[#answers + 1] = name
    answers[#answers + 1] = rcall('HGET', k[2], name) or ''
  end
  return answers
end

-- Some of what a worker listens to goes; answers how many. keys: h q. args: run
function ops.unlisten(k, a)
  local names = rcall('ZRANGEBYLEX', k[1], '[' .. a[1], '(' .. a[1] .. '\255', 'LIMIT', 0, UNLISTEN_MAX)
  if #names > 0 then
    rcall('HDEL', k[2], unpack(names))
    rcall('ZREM', k[1], unpack(names))
  end
  return #names
end

-- keys: w n l y. args: run, entries that the log may have, what the log is to say
function ops.leave(k, a)
  if rcall('HEXISTS', k[1], a[1]) + rcall('HEXISTS', k[4], a[1]) == 0 then return 0 end
  log(k[3], k[2], a[2], a[3])
  rcall('HDEL', k[1], a[1])
  rcall('HDEL', k[4], a[1])
  return 1
end

-- One worker at a time buries another, and goes on where the one before it stopped. Answers how long to wait for another
-- one, and the bucket to go on with. keys: w y. args: run, who asks, how long nobody else may, the bucket it is at
function ops.bury_turn(k, a)
  local now, turn = time_ms(), rcall('HGET', k[2], a[1])
  if turn then
    turn = cmsgpack.unpack(turn)
  elseif rcall('HEXISTS', k[1], a[1]) == 0 then
    return 'A'
  else
    turn = { '', 0, 0 }
  end
  if turn[1] ~= a[2] and turn[2] > now then return { turn[2] - now, turn[3] } end
  local bucket = turn[3]
  if turn[1] == a[2] then bucket = math.max(bucket, tonumber(a[4])) end
  rcall('HSET', k[2], a[1], cmsgpack.pack({ a[2], now + tonumber(a[3]), bucket }))
  return { 0, bucket }
end

-- Counters of an inbox: o if it is open, n its end, b bytes that were put in, t bytes that were thrown away.
-- keys: c
function ops.open_inbox(k)
  rcall('HSET', k[1], 'o', 1)
  rcall('PERSIST', k[1])
  return 1
end

-- keys: in c
function ops.close_inbox(k)
  local b = rcall('HGET', k[2], 'b')
  if b then rcall('HSET', k[2], 't', b) end
  rcall('HSET', k[2], '', '')
  rcall('HDEL', k[2], 'o')
  rcall('PEXPIRE', k[2], COUNTERS_KEPT_MS)
  rcall('UNLINK', k[1])
  return 1
end

-- keys: in c. args: bytes that may wait, the entry
function ops.post(k, a)
  local s = rcall('HMGET', k[2], 'o', 'n', 'b', 't')
  if not s[1] then return 'G' end
  local last, put, thrown = tonumber(s[2] or '0') + 1, tonumber(s[3] or '0'), tonumber(s[4] or '0')
  local size = #a[2] + INBOX_ENTRY_BYTES
  if put > thrown and put - thrown + size > tonumber(a[1]) then return 'F' end
  rcall('XADD', k[1], last .. '-0', 'b', put + size, 'd', a[2])
  rcall('HSET', k[2], 'n', last, 'b', put + size)
  return last
end

-- keys: in c. args: the last entry that is not needed any more
function ops.trim(k, a)
  local found = rcall('XRANGE', k[1], a[1] .. '-0', a[1] .. '-0')
  if not found[1] then return 0 end
  rcall('HSET', k[2], 't', found[1][2][2])
  return rcall('XTRIM', k[1], 'MINID', string.format('%.0f', tonumber(a[1]) + 1) .. '-0')
end
