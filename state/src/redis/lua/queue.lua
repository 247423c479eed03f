-- What goes into queues and out of them. All that a call has to do with one session is done together: its hash is read and
-- written once, and each command on its queue is for all messages. To those who ask it is as if one had come after the other.

local IDENTITY_MS = 300000
-- Beyond so many, the oldest are remembered for less: longer than a worker stands still before others bury it and what it still
-- had to send comes, however fast messages come meanwhile.
local IDENTITIES_MAX = 4096
local IDENTITY_MIN_MS = 60000
local IDENTITIES_TRIMMED = 16
local MARKER = '\1\0\0\0\0\1'

-- Identities of QoS 2 messages, of which a bucket remembers the newest for a while; keys: s e. `fresh` has those of this call.
local function remember(s, e, fresh)
  if not next(fresh) then return end
  local now, fields, scores = text(time_ms()), {}, {}
  for name, number in pairs(fresh) do
    fields[#fields + 1], fields[#fields + 2] = name, number
    scores[#scores + 1], scores[#scores + 2] = now, name
  end
  rcall('HSET', s, unpack(fields))
  rcall('ZADD', e, unpack(scores))
  local most = IDENTITIES_TRIMMED + #fields / 2
  local old = rcall('ZRANGEBYSCORE', e, '-inf', text(now - IDENTITY_MS), 'LIMIT', 0, most)
  local over = rcall('ZCARD', e) - IDENTITIES_MAX
  if #old == 0 and over > 0 then
    old = rcall('ZRANGEBYSCORE', e, '-inf', text(now - IDENTITY_MIN_MS), 'LIMIT', 0, math.min(over, most))
  end
  if #old > 0 then
    rcall('HDEL', s, unpack(old))
    rcall('ZREM', e, unpack(old))
  end
  -- Where none comes any more, the last go too.
  rcall('PEXPIRE', s, IDENTITY_MS)
  rcall('PEXPIRE', e, IDENTITY_MS)
end

function ops.age_identities(k)
  for _, key in ipairs(k) do
    if rcall('PTTL', key) == -1 then rcall('PEXPIRE', key, IDENTITY_MS) end
  end
  return 1
end

-- One session, and what has become of it so far. Of its hash only what is needed by what is done: see change_queues.
local function open_queue(m, q, run, kind)
  local s, tonumber = nil, tonumber
  if kind == word.ENQUEUE then
    s = rcall('HMGET', m, 'i', 'o', 't', 'l', 'b', 'r', 'v', 'M', 'B')
  elseif kind == word.ACKNOWLEDGE then
    s = rcall('HMGET', m, 'i', 'o', 't', 'l', 'b', 'e', 'n', 'h')
    s[10], s[11], s[12], s[6], s[7] = s[6], s[7], s[8], false, false
  else
    s = rcall('HMGET', m, 'i', 'o', 't', 'l', 'b', 'r', 'v', 'M', 'B', 'e', 'n', 'h')
  end
  local is_away, tail = s[2] == '', tonumber(s[3] or 0)
  return {
    q = q, incarnation = s[1], is_away = is_away, elsewhere = not is_away and s[6] ~= run and s[6], in_memory = s[7] == '1',
    first = tail, tail = tail, live = tonumber(s[4] or 0), bytes = tonumber(s[5] or 0),
    live_max = kind ~= word.ACKNOWLEDGE and tonumber(s[8] or 0), bytes_max = kind ~= word.ACKNOWLEDGE and tonumber(s[9] or 0),
    epoch = s[10], nonce = s[11], head = kind ~= word.ENQUEUE and tonumber(s[12] or 0),
    puts = kind ~= word.ACKNOWLEDGE and {}, gone = false, is_gone = false, records = false, known = false, freed = 0, freed_bytes = 0,
  }
end

-- Answers what becomes of a message.
local function enqueue(queue, incarnation, record, name, s, fresh)
  local is_here = queue.incarnation == incarnation
  if name then
    local known = fresh[name] or rcall('HGET', s, name)
    if known then
      -- It is remembered from now on.
      fresh[name] = known
      queue.known = queue.known or {}
      queue.known[#queue.known + 1] = tonumber(known)
      return is_here and word.KNOWN or word.KNOWN_ELSEWHERE
    end
  end
  if not is_here or queue.in_memory then return word.GONE end
  local size = size_of(record)
  if queue.live >= queue.live_max or queue.bytes + size > queue.bytes_max then return word.FULL end
  local number = text(queue.tail)
  local puts = queue.puts
  if queue.tail == 1 then puts[1], puts[2] = '', '' end
  puts[#puts + 1], puts[#puts + 2] = number, record
  if queue.records then queue.records[number] = record end
  if name then fresh[name] = number end
  queue.tail, queue.live, queue.bytes = queue.tail + 1, queue.live + 1, queue.bytes + size
  return word.QUEUED
end

-- A record goes, or becomes a mark. Answers why not.
local function settle(queue, incarnation, epoch, nonce, number, to)
  if not queue.incarnation then return word.NO_SESSION end
  if queue.incarnation ~= incarnation or queue.epoch ~= epoch or queue.nonce ~= nonce or queue.is_away then return word.FENCED end
  local record = queue.records[number]
  if not record or record == to then return word.SETTLED end
  local size = size_of(record)
  queue.bytes, queue.freed_bytes = queue.bytes - size, queue.freed_bytes + size
  queue.records[number] = to
  if to then
    local puts = queue.puts or {}
    puts[#puts + 1], puts[#puts + 2] = number, to
    queue.puts = puts
  else
    if not queue.gone then queue.gone, queue.is_gone = {}, {} end
    queue.gone[#queue.gone + 1] = number
    queue.is_gone[number] = true
    queue.live, queue.freed = queue.live - 1, queue.freed + 1
  end
  return word.SETTLED
end

-- The oldest number that is not acknowledged.
local function head_of(queue)
  if queue.live == 0 then return queue.tail end
  local head = queue.head
  while head < queue.tail do
    local number = text(head)
    if not queue.is_gone[number] and (head == queue.head or head >= queue.first or rcall('HEXISTS', queue.q, number) == 1) then
      break
    end
    head = head + 1
  end
  return head
end

local NONE = {}

local function close_queue(m, queue, marks)
  local has_puts = queue.puts and queue.puts[1]
  local changed = {}
  if queue.gone then
    local head = head_of(queue)
    if head ~= queue.head then changed[1], changed[2] = 'h', text(head) end
  end
  if has_puts then rcall('HSET', queue.q, unpack(queue.puts)) end
  if queue.gone then rcall('HDEL', queue.q, unpack(queue.gone)) end
  if has_puts or queue.gone then
    if queue.tail ~= queue.first then changed[#changed + 1], changed[#changed + 2] = 't', text(queue.tail) end
    rcall('HSET', m, 'l', text(queue.live), 'b', text(queue.bytes), unpack(changed))
  end
  return { queue.first, queue.elsewhere, queue.freed, queue.freed_bytes, table.concat(marks), queue.known or NONE }
end

-- Behind the bodies, for each session: whether something goes in (ENQUEUE), is settled (ACKNOWLEDGE) or BOTH, how many numbers are
-- settled, and these; how many runs of alike changes, and of each: what it is, the session's incarnation (and epoch and nonce), how
-- many, of those that are enqueued the share by which they come or '', and of each of these the record or its head, where the body
-- is among the arguments or '', and (ENQUEUE_NAMED) the name by which it is known.
function ops.change_queues(k, a)
  local run, at, key = a.run, first.bodies + tonumber(a.bodies_count), 1
  local s, e, fresh = nil, nil, {}
  if a.has_identities == '1' then s, e, key = k[1], k[2], 3 end
  local answers = {}
  while k[key] do
    local queue, marks = open_queue(k[key], k[key + 1], run, a[at]), {}
    local numbers, settled = at + 2, tonumber(a[at + 1])
    at = numbers + settled
    if settled > 0 then
      queue.records = {}
      local records = rcall('HMGET', queue.q, unpack(a, numbers, at - 1))
      for place, record in ipairs(records) do queue.records[a[numbers + place - 1]] = record end
    end
    local runs = tonumber(a[at])
    at = at + 1
    for _ = 1, runs do
      local kind, incarnation = a[at], a[at + 1]
      if kind == word.ENQUEUE or kind == word.ENQUEUE_NAMED then
        local count, place = tonumber(a[at + 2]), 0
        if a[at + 3] ~= '' and queue.incarnation == incarnation then place = share_place(k[key], a[at + 3]) end
        at = at + 4
        for _ = 1, count do
          local record, name = a[at], nil
          if a[at + 1] ~= '' then record = record .. a[tonumber(a[at + 1])] end
          if place > 0 then record = by_share(record, place) end
          if kind == word.ENQUEUE_NAMED then
            name = a[at + 2]
            at = at + 1
          end
          at = at + 2
          marks[#marks + 1] = enqueue(queue, incarnation, record, name, s, fresh)
        end
      else
        local epoch, nonce, count = a[at + 2], a[at + 3], tonumber(a[at + 4])
        at = at + 5
        local to = kind == word.RELEASE and MARKER or false
        for _ = 1, count do
          marks[#marks + 1] = settle(queue, incarnation, epoch, nonce, a[numbers], to)
          numbers = numbers + 1
        end
      end
    end
    answers[#answers + 1] = close_queue(k[key], queue, marks)
    key = key + 2
  end
  if s then remember(s, e, fresh) end
  return answers
end
