-- What workers have in common. The registry (w), the log (l) and its end (n), what workers listen to (h in order, q what
-- each gets) and burials (y) are in one slot, each inbox (in) and its counters (c) in one of its own. A hash or sorted set
-- that may be emptied and used again holds a field with the empty name; see the store's functions.

local UNLISTEN_MAX = 1000
local INBOX_ENTRY_BYTES = 64
local COUNTERS_KEPT_MS = 86400000

function ops.join(k, a)
  if rcall('HEXISTS', k.burials, a.run) == 1 then return word.BURIED end
  local now_us = time_us()
  local now, joined_us = math.floor(now_us / 1000), string.format('%.0f', now_us)
  rcall('HSET', k.registry, a.run, cmsgpack.pack({ a.name, 0, now, now, '', joined_us }))
  return { tonumber(rcall('GET', k.log_end) or '0'), joined_us }
end

-- Whether the entry of a worker is the one that was made then: it may have joined anew. Versions before did not write when.
local function is_entry(registry, run, joined_us)
  local entry = rcall('HGET', registry, run)
  return not entry or joined_us == '0' or (cmsgpack.unpack(entry)[6] or '0') == joined_us
end

-- The run of this server. A log that another server has may have other entries in the same places.
local own_server
local function server()
  own_server = own_server or string.match(rcall('INFO', 'server'), 'run_id:(%x+)')
  return own_server
end

function ops.renew(k, a)
  local now_us, expelled, members, own = time_us(), 1, {}, server()
  local now = math.floor(now_us / 1000)
  local mine = rcall('HGET', k.registry, a.run)
  if mine and rcall('HEXISTS', k.burials, a.run) == 0 then
    expelled = 0
    local entry = cmsgpack.unpack(mine)
    rcall('HSET', k.registry, a.run,
      cmsgpack.pack({ entry[1], tonumber(a.applied), now + tonumber(a.lease_ms), now, a.server, entry[6] or '0' }))
  end
  local all = rcall('HGETALL', k.registry)
  for at = 1, #all, 2 do
    local m = cmsgpack.unpack(all[at + 1])
    local applied = (m[5] or own) == own and m[2] or 0
    members[#members + 1] = { all[at], m[1], applied, m[3] > now and 1 or 0, math.max(0, now - m[4]) }
  end
  return { expelled, tonumber(rcall('GET', k.log_end) or '0'), members, now_us, a.server == own and 0 or 1 }
end

local function log(l, n, entries_max, bytes)
  local last = rcall('INCR', n)
  rcall('XADD', l, 'MAXLEN', '~', entries_max, last .. '-0', 'd', bytes)
  return last
end

function ops.append(k, a)
  local member = rcall('HEXISTS', k.registry, a.run) == 1
  local at, last = first.entries, tonumber(rcall('GET', k.log_end) or '0')
  for _ = 1, tonumber(a.entries_count) do
    if member or a[at] == '0' then last = log(k.log, k.log_end, a.entries_max, a[at + 1]) end
    at = at + 2
  end
  if member and a[at] then
    rcall('ZADD', k.listening, 0, '')
    rcall('HSET', k.listening_qos, '', '')
    for change = at, #a, 2 do
      if a[change + 1] == '' then
        rcall('ZREM', k.listening, a[change])
        rcall('HDEL', k.listening_qos, a[change])
      else
        rcall('ZADD', k.listening, 0, a[change])
        rcall('HSET', k.listening_qos, a[change], a[change + 1])
      end
    end
  end
  return last
end

function ops.listening(k, a)
  local names, answers = rcall('ZRANGEBYLEX', k.listening, '(' .. a.after, '+', 'LIMIT', 0, a.routes_max), {}
  for _, name in ipairs(names) do
    answers[#answers + 1] = name
    answers[#answers + 1] = rcall('HGET', k.listening_qos, name) or ''
  end
  return answers
end

-- Answers how many go.
function ops.unlisten(k, a)
  if not is_entry(k.registry, a.run, a.joined_us) then return word.GONE end
  if a.is_own == '1' and rcall('HEXISTS', k.burials, a.run) == 1 then return word.BURIED end
  local names = rcall('ZRANGEBYLEX', k.listening, '[' .. a.run, '(' .. a.run .. '\255', 'LIMIT', 0, UNLISTEN_MAX)
  if #names > 0 then
    rcall('HDEL', k.listening_qos, unpack(names))
    rcall('ZREM', k.listening, unpack(names))
  end
  return #names
end

function ops.leave(k, a)
  if not is_entry(k.registry, a.run, a.joined_us) then return word.GONE end
  if a.is_own == '1' and rcall('HEXISTS', k.burials, a.run) == 1 then return word.BURIED end
  if rcall('HEXISTS', k.registry, a.run) + rcall('HEXISTS', k.burials, a.run) == 0 then return 0 end
  log(k.log, k.log_end, a.entries_max, a.entry)
  rcall('HDEL', k.registry, a.run)
  rcall('HDEL', k.burials, a.run)
  return 1
end

-- One worker at a time buries another, and goes on where the one before it stopped. Answers how long to wait for another
-- one, the bucket to go on with, and when the dead one joined.
function ops.bury_turn(k, a)
  local now, turn, entry = time_ms(), rcall('HGET', k.burials, a.run), rcall('HGET', k.registry, a.run)
  entry = entry and cmsgpack.unpack(entry)
  if turn then
    turn = cmsgpack.unpack(turn)
  elseif not entry or now - entry[4] < tonumber(a.silent_ms) then
    -- It may have joined anew while somebody waited for the end of its burial.
    return word.GONE
  else
    turn = { '', 0, 0 }
  end
  local joined_us = entry and entry[6] or '0'
  if turn[1] ~= a.by and turn[2] > now then return { turn[2] - now, turn[3], joined_us } end
  local bucket = turn[3]
  if turn[1] == a.by then bucket = math.max(bucket, tonumber(a.bucket)) end
  rcall('HSET', k.burials, a.run, cmsgpack.pack({ a.by, now + tonumber(a.turn_ms), bucket }))
  return { 0, bucket, joined_us }
end

-- Counters of an inbox: o when its worker joined if it is open, n its end, b bytes that were put in, t bytes that were thrown away.
function ops.open_inbox(k, a)
  rcall('HSET', k.counters, 'o', a.joined_us)
  rcall('PERSIST', k.counters)
  return 1
end

-- Whether it was opened anew since then.
local function is_opened_anew(counters, joined_us)
  local opened = rcall('HGET', counters, 'o')
  return opened and joined_us ~= '0' and opened ~= joined_us
end

function ops.shut_inbox(k, a)
  if is_opened_anew(k.counters, a.joined_us) then return word.GONE end
  rcall('HSET', k.counters, '', '')
  rcall('HDEL', k.counters, 'o')
  local last = rcall('XREVRANGE', k.inbox, '+', '-', 'COUNT', 1)[1]
  return last and tonumber(string.match(last[1], '^%d+')) or 0
end

function ops.left_in_inbox(k, a)
  return rcall('XRANGE', k.inbox, '(' .. a.after .. '-0', '+', 'COUNT', a.entries_max)
end

function ops.close_inbox(k, a)
  if is_opened_anew(k.counters, a.joined_us) then return 0 end
  local b = rcall('HGET', k.counters, 'b')
  if b then rcall('HSET', k.counters, 't', b) end
  rcall('HSET', k.counters, '', '')
  rcall('HDEL', k.counters, 'o')
  rcall('PEXPIRE', k.counters, COUNTERS_KEPT_MS)
  rcall('UNLINK', k.inbox)
  return 1
end

function ops.post(k, a)
  local s = rcall('HMGET', k.counters, 'o', 'n', 'b', 't')
  if not s[1] then return word.GONE end
  local last, put, thrown = tonumber(s[2] or '0') + 1, tonumber(s[3] or '0'), tonumber(s[4] or '0')
  local size = #a.entry + INBOX_ENTRY_BYTES
  if put > thrown and put - thrown + size > tonumber(a.bytes_max) then return word.FULL end
  rcall('XADD', k.inbox, last .. '-0', 'b', put + size, 'd', a.entry)
  rcall('HSET', k.counters, 'n', last, 'b', put + size)
  return last
end

function ops.trim(k, a)
  local found = rcall('XRANGE', k.inbox, a.through .. '-0', a.through .. '-0')
  if not found[1] then return 0 end
  rcall('HSET', k.counters, 't', found[1][2][2])
  return rcall('XTRIM', k.inbox, 'MINID', string.format('%.0f', tonumber(a.through) + 1) .. '-0')
end
