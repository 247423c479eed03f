-- The functions of the store in Redis. Each call touches keys of one slot, all of them declared.
--
-- In a slot that is being moved, Redis refuses a call whose keys are not all there before it begins, and stops one that
-- touches a key that it has emptied itself. So that no call stops half-way: a hash or sorted set that may be emptied
-- by one operation and used by the next holds a field with the empty name as long as the session lives, and an
-- operation that deletes keys does that last and is alone in its call.
--
-- A session (m): i incarnation, e epoch, n nonce, c connection, o owner ('' when away), r run of the owner, x expires
-- at, y Session Expiry Interval, M and B bounds of the queue, v '1' if that is in the worker's memory, p protocol,
-- R Receive Maximum, W Will, D its delay, U when it is due, A when it comes again, K who was told to publish it, H its number, h head, t tail, l records, b bytes, s sent,
-- d what may have been sent on a connection before the last one, z on the last one if its worker died (acknowledgements that
-- it knew of may be lost, so that is more than s), j on the last one by owners before the last one, f subscriptions, g the
-- claim of the connection that was the last, a when that was asked for, by this server's clock, u whose it is (not there if an
-- earlier version made it), S the shares by which messages came, each with a zero byte.

local ops = {}

-- Nothing global is there yet while the library is loaded.
local call, format
local function rcall(...)
  call = call or redis.call
  return call(...)
end

local OUTCOME_MS = '600000'
local EXACT_SCAN_MAX = 1000
-- As CLAIM_SLACK_MS.
local CLAIM_SLACK_MS = 250
local EXPIRY_NEVER = '4294967295'
-- Filters, Packet Identifiers and bytes that are answered with a claim.
local CONTENTS_MAX = 64
local CONTENTS_BYTES_MAX = 4096
local PAGE_CHUNK_MIN = 4
local PAGE_CHUNK_MAX = 64

local function time_us()
  local now = rcall('TIME')
  return tonumber(now[1]) * 1000000 + tonumber(now[2])
end

local function time_ms()
  return math.floor(time_us() / 1000)
end

-- Now, by this server's clock unless the caller has one of its own: who makes something due here and who finds it due agree,
-- whatever the clocks of workers and of other servers show.
local function moment(given)
  if given == '' then return time_ms() end
  return tonumber(given)
end

-- A number as an argument of a command or the name of a field: what Redis makes of a number of Lua's takes several times longer.
local function text(number)
  format = format or string.format
  return format('%d', number)
end

-- The size of a record, as its writer counted it: bytes 2 to 5.
local function size_of(record)
  return struct.unpack('<I4', record, 2)
end

local FIELDS = { 'i', 'e', 'c', 'o', 'x', 'y', 'R', 'W', 'D', 'U', 'A', 'H', 'K', 'h', 't', 'l', 'b', 's', 'f', 'r', 'g', 'u', 'd', 'z', 'j', 'S', 'a' }
local NUMBERS = { 'e', 'x', 'y', 'R', 'D', 'U', 'A', 'H', 'h', 't', 'l', 'b', 's', 'f', 'g', 'd', 'z', 'j', 'a' }

local function load(m)
  local values = rcall('HMGET', m, unpack(FIELDS))
  if not values[1] then return nil end
  local s = {}
  for at, name in ipairs(FIELDS) do s[name] = values[at] end
  s.never = s.y == EXPIRY_NEVER
  for _, name in ipairs(NUMBERS) do s[name] = tonumber(s[name] or '') end
  s.connected = s.o ~= ''
  return s
end

-- Why a caller is not the owner; nil if it is.
local function refusal(m, incarnation, epoch, nonce)
  local have = rcall('HMGET', m, 'i', 'e', 'n', 'o')
  if not have[1] then return 'N' end
  if have[1] ~= incarnation or have[2] ~= epoch or have[3] ~= nonce or have[4] == '' then return 'F' end
  return nil
end

local function arm(t, at, member)
  rcall('ZADD', t, at, member, 'inf', '')
end

-- An upper bound of what an owner may have sent that keeps to the Receive Maximum.
local function sent_bound(q, s)
  if not s.connected then return math.max(s.h, math.min(s.s, s.t)) end
  local bound = s.t
  if s.l >= s.R then
    if s.t - s.h <= EXACT_SCAN_MAX then
      local live, number = 0, s.h
      while number < s.t and live < s.R do
        if rcall('HEXISTS', q, number) == 1 then live = live + 1 end
        number = number + 1
      end
      bound = number
    else
      bound = math.min(s.t, s.h + s.R + (s.t - s.h - s.l))
    end
  end
  return math.max(s.h, math.min(math.max(s.s, bound), s.t))
end

-- A bound of what was sent on the last connection that holds too when its owners knew of acknowledgements that have not come
-- here.
local function connection_bound(s)
  local last = s.connected and s.t or math.max(s.s, s.z or 0)
  return math.max(s.h, math.min(math.max(last, s.j or 0), s.t))
end

-- Numbers Wills that are handed out, and names Wills that outlived their session: of those a session may leave several.
local function next_number(w)
  return rcall('HINCRBY', w, '', 1)
end

-- Keeps a Will whose session is gone.
local function adopt(t, w, cid, s, at)
  local name = s.i .. ':' .. next_number(w)
  rcall('HSET', w, name, cmsgpack.pack({ s.K or '', cid, s.W, s.H or 0, s.u }))
  arm(t, at, 'o:' .. name)
end

-- What a Will is to be when a session that is away is taken over or discarded. `now` is set when it goes on.
local function settle_away(t, w, cid, s, now)
  if not s.W then return false end
  if s.A then
    adopt(t, w, cid, s, s.A)
    return false
  end
  -- One without a delay waits only because the connection might have gone on elsewhere, and it has not.
  if s.U and (not now or s.U <= now or s.D == 0) then return s.W end
  return false
end

-- A Will that is answered to be published now comes again if that is not finished, since the answer may be lost. Answers it
-- with its number, and whose it is.
local function hand_out(t, w, cid, s, owner, again)
  s.K, s.H = owner, next_number(w)
  adopt(t, w, cid, s, again)
  return { s.W, s.H, s.u }
end

-- Keeps the Will of an owner that loses the session, until its last word or until a time.
local function keep_for_last_word(k, cid, s, at)
  local name = s.i .. ':' .. next_number(k[7])
  local left_by = s.e .. ':' .. rcall('HGET', k[1], 'n')
  rcall('HSET', k[7], name, cmsgpack.pack({ '', cid, s.W, 0, s.u or false, left_by }))
  arm(k[6], at, 'o:' .. name)
end

-- The last word of an owner that lost the session: if its Will waits for that, it is due now, or dropped.
local function take_last_word(k, incarnation, left_by, keep, now)
  local front = incarnation .. ':'
  for _, name in ipairs(rcall('HKEYS', k[7])) do
    local record = string.sub(name, 1, #front) == front and cmsgpack.unpack(rcall('HGET', k[7], name))
    if record and record[6] == left_by and keep then
      rcall('HSET', k[7], name, cmsgpack.pack({ record[1], record[2], record[3], record[4], record[5] }))
      arm(k[6], now, 'o:' .. name)
      return
    elseif record and record[6] == left_by then
      rcall('HDEL', k[7], name)
      rcall('ZREM', k[6], 'o:' .. name)
      return
    end
  end
end

local function disarm(t, cid)
  rcall('ZREM', t, 'w:' .. cid, 'x:' .. cid)
end

local function freed(s)
  return { s.l, s.b, s.f }
end

-- The upper half of a record's flags says by which of its session's shares it came, from 1 on; 0 is none, and what the
-- 16th and later ones are.
local SHARES_MAX = 15

-- The place of a share among those of a session, which it is added to; and whether it was.
local function place_of(shares, share)
  local at = 0
  for known in string.gmatch(shares, '[^%z]+') do
    at = at + 1
    if known == share then return at, false end
  end
  if at >= SHARES_MAX then return 0, false end
  return at + 1, true
end

-- The same in the store.
local function share_place(m, share)
  local shares = rcall('HGET', m, 'S') or ''
  local place, is_new = place_of(shares, share)
  if is_new then rcall('HSET', m, 'S', shares .. share .. '\0') end
  return place
end

local function by_share(head, at)
  return string.sub(head, 1, 6) .. string.char(string.byte(head, 7) % 16 + 16 * at) .. string.sub(head, 8)
end

-- A session ends: what came to it by shares is kept for their other members, but for QoS 2 that it may have begun.
local function bequeath(k, cid, s, sent)
  sent = math.max(sent, s.z or 0)
  if not s.S or s.l == 0 then return false end
  local shares, left = {}, false
  for share in string.gmatch(s.S, '[^%z]+') do shares[#shares + 1] = share end
  for number = s.h, s.t - 1 do
    local record = rcall('HGET', k[3], number)
    if record and string.byte(record, 6) == 0 then
      local flags = string.byte(record, 7)
      local share, qos = shares[math.floor(flags / 16)], flags % 4
      if share and (qos == 1 or number >= sent) then
        local name = s.i .. ':' .. next_number(k[7])
        rcall('HSET', k[7], 's' .. name, cmsgpack.pack({ cid, share, record }))
        arm(k[6], 0, 's:' .. name)
        left = true
      end
    end
  end
  return left
end

local function remove_unarmed(k, cid)
  rcall('ZREM', k[5], cid)
  rcall('UNLINK', k[1], k[2], k[3], k[4])
end

local function remove(k, cid)
  disarm(k[6], cid)
  remove_unarmed(k, cid)
end

local function discard_will(k, cid, s)
  if s.connected then return s.W or false end
  return settle_away(k[6], k[7], cid, s, nil)
end

-- keys of a whole session: m f q r i t w
local function whole(k)
  return load(k[1])
end

local function add(list, ...)
  for _, item in ipairs({ ... }) do list[#list + 1] = item end
end

-- What the owner of a session is told beyond its numbers. keys: f r
function ops.contents(k)
  return { rcall('HGETALL', k[1]), rcall('HGETALL', k[2]) }
end

-- The same with a claim, if it is so little that it may stand in the outcome of a call; else nothing.
local function little_contents(k, s)
  if s.f > CONTENTS_MAX or rcall('HLEN', k[4]) > CONTENTS_MAX then return false end
  local contents, bytes = ops.contents({ k[2], k[4] }), 0
  for _, list in ipairs(contents) do
    for _, item in ipairs(list) do bytes = bytes + #item end
  end
  return bytes <= CONTENTS_BYTES_MAX and contents
end

-- A claim of a session that is not there. What is written is text, which Redis takes as it is.
local function begin(k, a, clock)
  if a[19] == '1' then return 'A' end
  local nothing = { 0, 0, 0 }
  if a[6] ~= '1' then return { false, false, nothing, false, false, false, clock } end
  if a[17] ~= '1' then return 'Q' end
  rcall('ZADD', k[5], '0', a[1])
  rcall('HSET', k[1], 'i', a[2], 'e', '1', 'n', a[3], 'c', a[4], 'o', a[15], 'r', a[16], 'p', a[12], 'R', a[13], 'v', a[18],
    'g', a[20], 'u', a[22], 'a', a[23], 'h', '1', 't', '1', 'l', '0', 'b', '0', 'f', '0', 's', '1', 'd', '1', 'y', a[7],
    'M', a[10], 'B', a[11])
  if a[8] ~= '' then rcall('HSET', k[1], 'W', a[8], 'D', a[9]) end
  return { false, false, nothing, { 0, a[2], 1, 1, 1, 1, a[7], 1 }, false, false, clock }
end

function ops.claim(k, a)
  local cid, incarnation, nonce, connection = a[1], a[2], a[3], a[4]
  local clean, create, expiry, will, delay = a[5] == '1', a[6] == '1', a[7], a[8], a[9]
  local now, owner, run = moment(a[14]), a[15], a[16]
  local memory, resume, attempt, principal = a[18], a[19] == '1', tonumber(a[20]), a[22]
  local asked, until_ms, will_wait = tonumber(a[23]), tonumber(a[24]), tonumber(a[25])
  local clock = a[14] == '' and now or time_ms()
  if clock > until_ms then return { 'L', clock } end
  if rcall('EXISTS', k[1]) == 0 then return begin(k, a, clock) end
  local s = whole(k)
  if s.c == connection and attempt < (s.g or 0) then return 'T' end
  -- One that was asked for before the one that has the session. What is not yet was another server's time.
  if s.c ~= connection and not resume and s.a and s.a <= clock and asked + CLAIM_SLACK_MS < s.a then
    return { 'S', clock }
  end
  if resume and s.c ~= connection then return 'T' end
  -- What is over belongs to nobody.
  if s.u and s.u ~= principal and (s.connected or not s.x or s.x > now) then return 'P' end
  local will_due, discarded, gone, kept, previous = false, false, { 0, 0, 0 }, resume, false
  if s.connected and s.r ~= run then previous = { s.r, s.c } end
  if not resume and not clean and (s.y > 0 or s.c == connection) then
    kept = s.connected or not s.x or s.x > now
  end
  if resume then
    if s.A then
      adopt(k[6], k[7], cid, s, s.A)
      rcall('HDEL', k[1], 'W', 'D')
    end
  elseif not kept then
    will_due, discarded, gone = discard_will(k, cid, s), s.i, freed(s)
    bequeath(k, cid, s, sent_bound(k[3], s))
  elseif not s.connected then
    will_due = settle_away(k[6], k[7], cid, s, now)
  elseif s.W and s.D == 0 then
    will_due = s.W
  end
  -- A Will goes with its connection, which may ask for its session more than once.
  if s.c == connection then
    will_due = false
  elseif will_due and s.connected and will_wait > 0 then
    keep_for_last_word(k, cid, s, now + will_wait)
    will_due = 1
  elseif will_due then
    will_due = hand_out(k[6], k[7], cid, s, owner, now + tonumber(a[21]))
  end
  if not kept and not create then
    remove(k, cid)
    return { will_due, discarded, gone, false, previous, false, clock }
  end
  local epoch, head, tail, sent, repeats = s.e + 1, 1, 1, 1, 1
  local fields = { 'e', epoch, 'n', nonce, 'c', connection, 'o', owner, 'r', run, 'p', a[12], 'R', a[13], 'v', memory, 'g', attempt,
    'u', principal, 'a', a[23] }
  local cleared = { 'x', 'U', 'A', 'K', 'H', 'z' }
  if kept then
    incarnation, head, tail, sent = s.i, s.h, s.t, sent_bound(k[3], s)
    repeats = math.max(s.h, s.d or 0)
    if not resume then repeats = math.max(repeats, connection_bound(s)) end
  else
    add(fields, 'i', incarnation, 'h', 1, 't', 1, 'l', 0, 'b', 0, 'f', 0)
    add(cleared, 'S')
    rcall('ZADD', k[5], 0, cid)
  end
  add(fields, 's', sent, 'd', repeats)
  if resume then
    expiry = s.y
    add(fields, 'j', connection_bound(s))
  else
    add(fields, 'y', expiry, 'M', a[10], 'B', a[11])
    add(cleared, 'j')
    if will ~= '' then add(fields, 'W', will, 'D', delay) else add(cleared, 'W', 'D') end
  end
  rcall('HSET', k[1], unpack(fields))
  rcall('HDEL', k[1], unpack(cleared))
  if not s.connected then disarm(k[6], cid) end
  if not kept then rcall('UNLINK', k[2], k[3], k[4]) end
  local session = { kept and 1 or 0, incarnation, epoch, head, tail, sent, expiry, repeats }
  return { will_due, discarded, gone, session, previous, kept and little_contents(k, s), clock }
end

-- Starts the timers of a session whose owner is gone since `now`; answers when the first of them goes off.
local function leave(k, cid, s, now)
  local first = false
  rcall('HSET', k[1], 'o', '')
  if s.W then
    local at = now + math.min(s.D, s.y) * 1000
    rcall('HSET', k[1], 'U', at)
    arm(k[6], at, 'w:' .. cid)
    first = at
  end
  if not s.never then
    local at = now + s.y * 1000
    rcall('HSET', k[1], 'x', at)
    arm(k[6], at, 'x:' .. cid)
    first = first or at
  end
  return first
end

-- A session has no owner any more: it ends now if it has no time left, and leaves its Will; else its timers start. With
-- `is_dead` its worker did not say what it sent. Answers what it held, and how long it is until the first of its timers goes
-- off.
local function let_go(k, cid, s, now, grace, sent, is_dead)
  if s.y == 0 and grace == 0 then
    if s.W then adopt(k[6], k[7], cid, s, now) end
    local has_left = bequeath(k, cid, s, is_dead and s.t or sent)
    -- It has no timers: it was connected until now.
    remove_unarmed(k, cid)
    return { freed(s), (s.W or has_left) and 0 or false }
  end
  rcall('HSET', k[1], 's', sent)
  if is_dead then rcall('HSET', k[1], 'z', s.t) end
  local first = leave(k, cid, s, now + grace)
  return { false, first and first - now }
end

-- Ends the session of its owner if nothing of it is to be left, as of most clean ones: without a look at all that a session may
-- have. Answers what it held, or nothing when there is more to do.
local function end_empty(k, a)
  local have = rcall('HMGET', k[1], 'i', 'e', 'n', 'o', 'l', 'b', 'f', 'W')
  local is_owner = have[1] == a[2] and have[2] == a[3] and have[3] == a[4] and have[4] ~= ''
  if not is_owner or have[5] ~= '0' or (have[8] and a[6] == '1') then return nil end
  remove_unarmed(k, a[1])
  return { { 0, tonumber(have[6]), tonumber(have[7]) }, false }
end

function ops.release(k, a)
  local is_over = a[5] == '0' and a[9] == '0' and end_empty(k, a)
  if is_over then return is_over end
  local cid, expiry, keep_will, now, grace = a[1], a[5], a[6] == '1', moment(a[8]), tonumber(a[9])
  local no = refusal(k[1], a[2], a[3], a[4])
  if no then
    take_last_word(k, a[2], a[3] .. ':' .. a[4], keep_will, now)
    return no
  end
  local s = whole(k)
  local has_will = s.W
  s.y, s.never = tonumber(expiry), expiry == EXPIRY_NEVER
  if not keep_will then s.W = nil end
  if s.y > 0 or grace > 0 then
    rcall('HSET', k[1], 'y', expiry)
    if has_will and not keep_will then rcall('HDEL', k[1], 'W', 'D') end
  end
  return let_go(k, cid, s, now, grace, math.max(s.h, math.min(tonumber(a[7]), s.t)))
end

-- keys: m
function ops.drop_will(k, a)
  local no = refusal(k[1], a[1], a[2], a[3])
  if no then return no end
  return rcall('HDEL', k[1], 'W', 'D')
end

-- args: cid, incarnation, the run that is dead, now, how long the session waits for its connection
function ops.bury(k, a)
  local s = whole(k)
  if not s or s.i ~= a[2] or not s.connected or s.r ~= a[3] then return false end
  return let_go(k, a[1], s, moment(a[4]), tonumber(a[5]), sent_bound(k[3], s), true)
end

-- What a worker's earlier run has left: it owns sessions no more, and publishes no Wills.
function ops.abandon(k, a)
  local cid, incarnation, run, now, owner = a[1], a[2], a[3], moment(a[4]), a[5]
  local s = whole(k)
  if not s or s.i ~= incarnation then return false end
  if s.connected then
    if s.o ~= owner or s.r == run then return false end
    return let_go(k, cid, s, now, 0, sent_bound(k[3], s), true)
  end
  if s.A and s.K == owner then
    rcall('HDEL', k[1], 'A', 'K', 'H')
    arm(k[6], s.U, 'w:' .. cid)
    return { false, math.max(0, s.U - now) }
  end
  return false
end

-- keys: t w
function ops.rearm(k, a)
  local all, now = rcall('HGETALL', k[2]), moment(a[2])
  for at = 1, #all, 2 do
    if string.sub(all[at], 1, 1) == 's' then
      arm(k[1], 0, 's:' .. string.sub(all[at], 2))
    elseif all[at] ~= '' then
      local record = cmsgpack.unpack(all[at + 1])
      if record[1] == a[1] or record[1] == '' then
        rcall('HSET', k[2], all[at], cmsgpack.pack({ '', record[2], record[3], 0, record[5] or false }))
        arm(k[1], now, 'o:' .. all[at])
      end
    end
  end
  return 1
end

function ops.subscribe(k, a)
  local no = refusal(k[1], a[1], a[2], a[3])
  if no then return no end
  local seen, flags, new = {}, {}, 0
  for at = 5, #a, 2 do
    local filter = a[at]
    if not seen[filter] then
      seen[filter] = true
      if rcall('HEXISTS', k[2], filter) == 0 then new = new + 1 end
    end
  end
  if new > 0 and tonumber(rcall('HGET', k[1], 'f')) + new > tonumber(a[4]) then return 'Q' end
  for at = 5, #a, 2 do
    flags[#flags + 1] = 1 - rcall('HSET', k[2], a[at], a[at + 1])
  end
  if #flags > 0 then rcall('HSET', k[2], '', '') end
  if new > 0 then rcall('HINCRBY', k[1], 'f', new) end
  return { new, flags }
end

function ops.unsubscribe(k, a)
  local no = refusal(k[1], a[1], a[2], a[3])
  if no then return no end
  local flags, gone = {}, 0
  for at = 4, #a do
    local was = rcall('HDEL', k[2], a[at])
    gone = gone + was
    flags[#flags + 1] = was
  end
  if gone > 0 then rcall('HINCRBY', k[1], 'f', -gone) end
  return { gone, flags }
end

-- keys: m. args: fence
function ops.confirm(k, a)
  return refusal(k[1], a[1], a[2], a[3]) or 1
end

-- keys: m q. args: fence, from, records, bytes
function ops.read_queue(k, a)
  local no = refusal(k[1], a[1], a[2], a[3])
  if no then return no end
  local s = rcall('HMGET', k[1], 'h', 't')
  local head, tail = tonumber(s[1]), tonumber(s[2])
  local number = math.max(head, math.min(tonumber(a[4]), tail))
  local records_max, bytes_max = tonumber(a[5]), tonumber(a[6])
  local page, records, bytes, chunk = { number }, 0, 0, PAGE_CHUNK_MIN
  while number < tail do
    local names = {}
    for ahead = number, math.min(number + chunk, tail) - 1 do names[#names + 1] = text(ahead) end
    for at, record in ipairs(rcall('HMGET', k[2], unpack(names))) do
      if record then
        local size = size_of(record)
        if records > 0 and (records >= records_max or bytes + size > bytes_max) then
          page[1] = number
          return page
        end
        records, bytes = records + 1, bytes + size
        page[#page + 1] = number
        page[#page + 1] = record
      end
      number = number + 1
    end
    -- Not much more than will be taken.
    local average = records > 0 and bytes / records or 1
    local left = math.floor((bytes_max - bytes) / math.max(average, 1))
    chunk = math.max(PAGE_CHUNK_MIN, math.min(PAGE_CHUNK_MAX, left, records_max - records + 1))
  end
  page[1] = number
  return page
end

-- keys: m r. args: fence, Packet Identifier, state and identity. Answers what was there.
function ops.receive(k, a)
  local no = refusal(k[1], a[1], a[2], a[3])
  if no then return no end
  local have = rcall('HGET', k[2], a[4])
  if have then return { have } end
  rcall('HSET', k[2], a[4], a[5], '', '')
  return { false }
end

-- keys: m r. args: incarnation, Packet Identifier, what was there, what is to be there
function ops.received(k, a)
  if rcall('HGET', k[1], 'i') == a[1] and rcall('HGET', k[2], a[2]) == a[3] then
    rcall('HSET', k[2], a[2], a[4])
    return 1
  end
  return 0
end

function ops.forget(k, a)
  local no = refusal(k[1], a[1], a[2], a[3])
  if no then return no end
  return { rcall('HDEL', k[2], a[4]) }
end

-- keys: i w. args: after which client, how many
function ops.list(k, a)
  local from = '-'
  if a[1] ~= '' then from = '(' .. a[1] end
  return { rcall('ZRANGEBYLEX', k[1], from, '+', 'LIMIT', 0, a[2]), rcall('HLEN', k[2]) }
end

-- keys: m
function ops.inspect(k)
  local s = rcall('HMGET', k[1], 'i', 'o', 'r', 'l', 'b', 'f', 'K')
  if not s[1] then return false end
  return s
end

-- keys: m f
function ops.route(k)
  local m = rcall('HMGET', k[1], 'i', 'e', 'v')
  if not m[1] or m[3] == '1' then return false end
  return { m[1], m[2], rcall('HGETALL', k[2]) }
end

-- keys: m of each. args: their incarnations
function ops.tails(k, a)
  local tails = {}
  for at, m in ipairs(k) do
    local s = rcall('HMGET', m, 'i', 't')
    tails[at] = s[1] == a[at] and tonumber(s[2]) or 0
  end
  return tails
end

-- Answers what is due, and how long it is until something is. keys: t. args: now, how many
function ops.due(k, a)
  local at = moment(a[1])
  local now = string.format('%.0f', at)
  local due = rcall('ZRANGEBYSCORE', k[1], '-inf', now, 'WITHSCORES', 'LIMIT', 0, a[2])
  local later = rcall('ZRANGEBYSCORE', k[1], '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  later = later[2] or false
  if later and later ~= 'inf' then later = string.format('%.0f', tonumber(later) - at) end
  return { due, later }
end

-- keys: of a whole session. args: cid, now, after how long it comes again, who asks
function ops.take_will(k, a)
  local s, now = whole(k), moment(a[2])
  local member, again = 'w:' .. a[1], now + tonumber(a[3])
  local at = rcall('ZSCORE', k[6], member)
  if not at or tonumber(at) > now then return false end
  if not s or s.connected or not s.W then
    rcall('ZREM', k[6], member)
    return false
  end
  local number = s.H or next_number(k[7])
  rcall('HSET', k[1], 'A', again, 'K', a[4], 'H', number)
  arm(k[6], again, member)
  return { a[1], s.i, { s.W, number, s.u } }
end

function ops.take_expiry(k, a)
  local s, now = whole(k), moment(a[2])
  local member = 'x:' .. a[1]
  local at = rcall('ZSCORE', k[6], member)
  if not at or tonumber(at) > now then return false end
  if not s or s.connected or not s.x or s.x > now then
    rcall('ZREM', k[6], member)
    return false
  end
  if s.W then adopt(k[6], k[7], a[1], s, s.A or s.U or now) end
  bequeath(k, a[1], s, sent_bound(k[3], s))
  remove(k, a[1])
  return { a[1], s.i, freed(s) }
end

-- keys: t w. args: its name, now, after how long it comes again, who asks
function ops.take_orphan(k, a)
  local member, now = 'o:' .. a[1], moment(a[2])
  local at = rcall('ZSCORE', k[1], member)
  if not at or tonumber(at) > now then return false end
  local record = rcall('HGET', k[2], a[1])
  if not record then
    rcall('ZREM', k[1], member)
    return false
  end
  record = cmsgpack.unpack(record)
  local number = record[4]
  if number == 0 then number = next_number(k[2]) end
  local principal = record[5] or false
  rcall('HSET', k[2], a[1], cmsgpack.pack({ a[4], record[2], record[3], number, principal }))
  arm(k[1], now + tonumber(a[3]), member)
  return { record[2], string.match(a[1], '^%d+'), { record[3], number, principal } }
end

-- keys: t w. args: its name, now, in how long it comes again
function ops.take_left(k, a)
  local member, now = 's:' .. a[1], moment(a[2])
  local at = rcall('ZSCORE', k[1], member)
  if not at or tonumber(at) > now then return false end
  local record = rcall('HGET', k[2], 's' .. a[1])
  if not record then
    rcall('ZREM', k[1], member)
    return false
  end
  record = cmsgpack.unpack(record)
  arm(k[1], now + tonumber(a[3]), member)
  local incarnation, number = string.match(a[1], '^(%d+):(%d+)$')
  return { record[1], incarnation, { number, record[2], record[3] } }
end

-- Other members have it. keys: t w. args: incarnation, its number
function ops.finish_left(k, a)
  local name = a[1] .. ':' .. a[2]
  rcall('HDEL', k[2], 's' .. name)
  rcall('ZREM', k[1], 's:' .. name)
  return 1
end

-- A Will has been published. keys: m t w. args: cid, incarnation, its number
function ops.finish_will(k, a)
  local front = a[2] .. ':'
  for _, name in ipairs(rcall('HKEYS', k[3])) do
    if string.sub(name, 1, #front) == front
      and cmsgpack.unpack(rcall('HGET', k[3], name))[4] == tonumber(a[3]) then
      rcall('HDEL', k[3], name)
      rcall('ZREM', k[2], 'o:' .. name)
      return 1
    end
  end
  local s = rcall('HMGET', k[1], 'i', 'A', 'H')
  if s[1] == a[2] and s[2] and s[3] == a[3] then
    rcall('HDEL', k[1], 'W', 'D', 'U', 'A', 'K', 'H')
    rcall('ZREM', k[2], 'w:' .. a[1])
  end
  return 1
end

-- keys: v x. The field with the empty name counts the bytes.
local function retained_bytes(v, delta)
  if delta ~= 0 then rcall('HINCRBY', v, '', delta) end
end

local function forget_retained(k, topic, old)
  local size = size_of(old)
  retained_bytes(k[1], -size)
  rcall('HDEL', k[1], topic)
  rcall('ZREM', k[2], topic)
  return { -1, -size }
end

-- args: topic, record or '', size, whether one more is allowed, bytes that are
function ops.retain(k, a)
  local topic, record = a[1], a[2]
  local old = rcall('HGET', k[1], topic)
  if record == '' then
    if old then return forget_retained(k, topic, old) end
    return { 0, 0 }
  end
  local delta = tonumber(a[3])
  if old then delta = delta - size_of(old) elseif a[4] ~= '1' then return 'Q' end
  if delta > 0 and delta > tonumber(a[5]) then return 'Q' end
  rcall('HSET', k[1], topic, record)
  retained_bytes(k[1], delta)
  if old then return { 0, delta } end
  rcall('ZADD', k[2], 0, topic)
  return { 1, delta }
end

-- args: topic, the record that has expired
function ops.forget_expired(k, a)
  local old = rcall('HGET', k[1], a[1])
  if old ~= a[2] then return { 0, 0 } end
  return forget_retained(k, a[1], old)
end

-- Messages that have expired go, though nobody reads them. keys: v x. args: after which topic, how many are looked at, now. Answers the
-- last of these, or nothing at the end, and what that frees.
function ops.forget_all_expired(k, a)
  local topics = rcall('ZRANGEBYLEX', k[2], a[1] == '' and '-' or '(' .. a[1], '+', 'LIMIT', 0, a[2])
  if #topics == 0 then return { false, 0, 0 } end
  local now, bytes, expired = tonumber(a[3]), 0, {}
  for at, record in ipairs(rcall('HMGET', k[1], unpack(topics))) do
    -- Behind the front of a record without identifiers, its flags and when it was published.
    local expires_at = record and struct.unpack('<I8', record, 19) or 0
    if expires_at > 0 and expires_at <= now then
      expired[#expired + 1] = topics[at]
      bytes = bytes + size_of(record)
    end
  end
  if #expired > 0 then
    retained_bytes(k[1], -bytes)
    rcall('HDEL', k[1], unpack(expired))
    rcall('ZREM', k[2], unpack(expired))
  end
  return { #topics == tonumber(a[2]) and topics[#topics] or false, -#expired, -bytes }
end

-- keys: x. args: from, to, how many
function ops.topics(k, a)
  return rcall('ZRANGEBYLEX', k[1], a[1], a[2], 'LIMIT', 0, a[3])
end

-- keys: v. args: topics
function ops.values(k, a)
  local values = {}
  for at, topic in ipairs(a) do values[at] = rcall('HGET', k[1], topic) end
  return values
end

-- keys: v x
function ops.retained_counts(k)
  return { rcall('ZCARD', k[2]), tonumber(rcall('HGET', k[1], '') or '0') }
end
