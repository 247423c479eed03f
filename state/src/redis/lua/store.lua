-- The functions of the store in Redis. Each call touches keys of one slot, all of them declared.
--
-- A function gets its keys in k and its arguments in a, both as lists. `k.session` is written for the place of that key, `a.epoch`
-- for that of an argument, `first.filters` for the place where a list of arguments begins, and `word.FENCED` for a letter: they
-- are put in by functions.rs, from the declarations in operations.rs. In a local function, k has the keys of a whole session, or
-- what the operation has that is named behind it.
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
-- earlier version made it), S the shares by which messages came, each with a zero byte, k the token under which it has a seat (see
-- seats.lua), if it has one.

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
-- When what a session leaves to its shares is due: before all that has a time, from which it can be told.
local LEFT_AT = '0'
-- Bytes of retained messages that a call answers, but for the first, which may be larger; and what is left of that for the
-- operations that are still to come.
local VALUES_BYTES_MAX = 1048576
local values_left = 0

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

local FIELDS = { 'i', 'e', 'c', 'o', 'x', 'y', 'R', 'W', 'D', 'U', 'A', 'H', 'K', 'h', 't', 'l', 'b', 's', 'f', 'r', 'g', 'u', 'd', 'z', 'j', 'S', 'a', 'k' }
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
  if not have[1] then return word.NO_SESSION end
  if have[1] ~= incarnation or have[2] ~= epoch or have[3] ~= nonce or have[4] == '' then return word.FENCED end
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
-- with its number, which it keeps if it was handed out before, and whose it is.
local function hand_out(t, w, cid, s, owner, again)
  s.K, s.H = owner, s.H or next_number(w)
  adopt(t, w, cid, s, again)
  return { s.W, s.H, s.u }
end

-- Keeps the Will of an owner that loses the session, until its last word or until a time.
local function keep_for_last_word(k, cid, s, at)
  local name = s.i .. ':' .. next_number(k.orphans)
  local left_by = s.e .. ':' .. rcall('HGET', k.session, 'n')
  rcall('HSET', k.orphans, name, cmsgpack.pack({ '', cid, s.W, 0, s.u or false, left_by }))
  arm(k.timers, at, 'o:' .. name)
end

-- The last word of an owner that lost the session: if its Will waits for that, it is due now, or dropped.
local function take_last_word(k, incarnation, left_by, keep, now)
  local front = incarnation .. ':'
  for _, name in ipairs(rcall('HKEYS', k.orphans)) do
    local record = string.sub(name, 1, #front) == front and cmsgpack.unpack(rcall('HGET', k.orphans, name))
    if record and record[6] == left_by and keep then
      rcall('HSET', k.orphans, name, cmsgpack.pack({ record[1], record[2], record[3], record[4], record[5] }))
      arm(k.timers, now, 'o:' .. name)
      return
    elseif record and record[6] == left_by then
      rcall('HDEL', k.orphans, name)
      rcall('ZREM', k.timers, 'o:' .. name)
      return
    end
  end
end

local function disarm(t, cid)
  rcall('ZREM', t, 'w:' .. cid, 'x:' .. cid)
end

-- What a session held; and its seat, and whose that was.
local function freed(s)
  return { s.l, s.b, s.f, s.k, s.k and s.u }
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

-- Keeps what a session leaves for other members of its shares.
local function keep_left(k, incarnation, records)
  local number = rcall('HINCRBY', k.orphans, '', #records) - #records
  local fields, timers = {}, {}
  for at, record in ipairs(records) do
    local name = incarnation .. ':' .. text(number + at)
    fields[2 * at - 1], fields[2 * at] = 's' .. name, record
    timers[2 * at - 1], timers[2 * at] = LEFT_AT, 's:' .. name
  end
  rcall('HSET', k.orphans, unpack(fields))
  rcall('ZADD', k.timers, 'inf', '', unpack(timers))
end

-- A session ends: what came to it by shares is kept for their other members, but for QoS 2 that it may have begun.
local function bequeath(k, cid, s, sent)
  sent = math.max(sent, s.z or 0)
  if not s.S or s.l == 0 then return false end
  local shares, left = {}, false
  for share in string.gmatch(s.S, '[^%z]+') do shares[#shares + 1] = share end
  for from = s.h, s.t - 1, PAGE_CHUNK_MAX do
    local names, kept = {}, {}
    for number = from, math.min(from + PAGE_CHUNK_MAX, s.t) - 1 do names[#names + 1] = text(number) end
    for at, record in ipairs(rcall('HMGET', k.queue, unpack(names))) do
      if record and string.byte(record, 6) == 0 then
        local flags = string.byte(record, 7)
        local share, qos = shares[math.floor(flags / 16)], flags % 4
        if share and (qos == 1 or from + at - 1 >= sent) then
          kept[#kept + 1] = cmsgpack.pack({ cid, share, record })
        end
      end
    end
    if #kept > 0 then
      keep_left(k, s.i, kept)
      left = true
    end
  end
  return left
end

local function remove_unarmed(k, cid)
  rcall('ZREM', k.index, cid)
  rcall('UNLINK', k.session, k.subscriptions, k.queue, k.received)
end

local function remove(k, cid)
  disarm(k.timers, cid)
  remove_unarmed(k, cid)
end

local function discard_will(k, cid, s)
  if s.connected then return s.W or false end
  return settle_away(k.timers, k.orphans, cid, s, nil)
end

local function whole(k)
  return load(k.session)
end

local function add(list, ...)
  for _, item in ipairs({ ... }) do list[#list + 1] = item end
end

function ops.contents(k)
  return { rcall('HGETALL', k.subscriptions), rcall('HGETALL', k.received) }
end

-- The same with a claim, if it is so little that it may stand in the outcome of a call; else nothing.
local function little_contents(k, s)
  if s.f > CONTENTS_MAX or rcall('HLEN', k.received) > CONTENTS_MAX then return false end
  local contents, bytes = ops.contents({ k.subscriptions, k.received }), 0
  for _, list in ipairs(contents) do
    for _, item in ipairs(list) do bytes = bytes + #item end
  end
  return bytes <= CONTENTS_BYTES_MAX and contents
end

-- A claim of a session that is not there. What is written is text, which Redis takes as it is.
local function begin(k, a, clock) -- as ops.claim
  if a.resume == '1' then return word.GONE end
  local nothing = { 0, 0, 0, false, false }
  if a.create ~= '1' then return { false, false, nothing, false, false, false, clock } end
  if a.may_create ~= '1' then return word.QUOTA end
  if a.seat == word.NO_SEAT then return { word.UNSEATED, clock } end
  rcall('ZADD', k.index, '0', a.client_id)
  rcall('HSET', k.session, 'i', a.incarnation, 'e', '1', 'n', a.nonce, 'c', a.connection_id, 'o', a.worker, 'r', a.run,
    'p', a.protocol, 'R', a.receive_maximum, 'v', a.memory_queue, 'g', a.attempt, 'u', a.principal, 'a', a.asked_at,
    'h', '1', 't', '1', 'l', '0', 'b', '0', 'f', '0', 's', '1', 'd', '1', 'y', a.expiry_s,
    'M', a.messages_max, 'B', a.bytes_max)
  if a.will ~= '' then rcall('HSET', k.session, 'W', a.will, 'D', a.will_delay_s) end
  if a.seat == word.SEAT then rcall('HSET', k.session, 'k', a.incarnation) end
  return { false, false, nothing, { 0, a.incarnation, 1, 1, 1, 1, a.expiry_s, 1, 1 }, false, false, clock }
end

function ops.claim(k, a)
  local cid, incarnation, nonce, connection = a.client_id, a.incarnation, a.nonce, a.connection_id
  local clean, create, expiry, will, delay = a.clean_start == '1', a.create == '1', a.expiry_s, a.will, a.will_delay_s
  local now, owner, run = moment(a.now), a.worker, a.run
  local memory, resume, attempt, principal = a.memory_queue, a.resume == '1', tonumber(a.attempt), a.principal
  local asked, until_ms, will_wait = tonumber(a.asked_at), tonumber(a.valid_until), tonumber(a.will_wait_ms)
  local clock = a.now == '' and now or time_ms()
  if clock > until_ms then return { word.TOO_LATE, clock } end
  if rcall('EXISTS', k.session) == 0 then return begin(k, a, clock) end
  local s = whole(k)
  if s.c == connection and attempt < (s.g or 0) then return word.TAKEN_OVER end
  -- One that was asked for before the one that has the session. What is not yet was another server's time.
  if s.c ~= connection and not resume and s.a and s.a <= clock and asked + CLAIM_SLACK_MS < s.a then
    return { word.OVERTAKEN, clock }
  end
  if resume and s.c ~= connection then return word.TAKEN_OVER end
  -- What is over belongs to nobody.
  if s.u and s.u ~= principal and (s.connected or not s.x or s.x > now) then return word.FOREIGN end
  local will_due, discarded, gone, kept, previous = false, false, { 0, 0, 0, false, false }, resume, false
  if s.connected and s.r ~= run then previous = { s.r, s.c } end
  if not resume and not clean and (s.y > 0 or s.c == connection) then
    kept = s.connected or not s.x or s.x > now
  end
  local goes_on = kept or (create and a.seat ~= '' and s.u == principal)
  if create and not goes_on and a.seat == word.NO_SEAT then return { word.UNSEATED, clock } end
  local seat = a.seat == word.SEAT and incarnation or (goes_on and s.u == principal and s.k)
  if resume then
    if s.A then
      adopt(k.timers, k.orphans, cid, s, s.A)
      rcall('HDEL', k.session, 'W', 'D')
    end
  elseif not kept then
    will_due, discarded, gone = discard_will(k, cid, s), s.i, freed(s)
    if goes_on then gone[4], gone[5] = false, false end
    bequeath(k, cid, s, sent_bound(k.queue, s))
  elseif not s.connected then
    will_due = settle_away(k.timers, k.orphans, cid, s, now)
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
    will_due = hand_out(k.timers, k.orphans, cid, s, owner, now + tonumber(a.again_ms))
  end
  if not kept and not create then
    remove(k, cid)
    return { will_due, discarded, gone, false, previous, false, clock }
  end
  local epoch, head, tail, sent, repeats = s.e + 1, 1, 1, 1, 1
  local fields = { 'e', epoch, 'n', nonce, 'c', connection, 'o', owner, 'r', run,
    'p', a.protocol, 'R', a.receive_maximum, 'v', memory, 'g', attempt, 'u', principal, 'a', a.asked_at }
  local cleared = { 'x', 'U', 'A', 'K', 'H', 'z' }
  if kept then
    incarnation, head, tail, sent = s.i, s.h, s.t, sent_bound(k.queue, s)
    repeats = math.max(s.h, s.d or 0)
    if not resume then repeats = math.max(repeats, connection_bound(s)) end
  else
    add(fields, 'i', incarnation, 'h', 1, 't', 1, 'l', 0, 'b', 0, 'f', 0)
    add(cleared, 'S')
    rcall('ZADD', k.index, 0, cid)
  end
  add(fields, 's', sent, 'd', repeats)
  if seat then add(fields, 'k', seat) else add(cleared, 'k') end
  if resume then
    expiry = s.y
    add(fields, 'j', connection_bound(s))
  else
    add(fields, 'y', expiry, 'M', a.messages_max, 'B', a.bytes_max)
    add(cleared, 'j')
    if will ~= '' then add(fields, 'W', will, 'D', delay) else add(cleared, 'W', 'D') end
  end
  rcall('HSET', k.session, unpack(fields))
  rcall('HDEL', k.session, unpack(cleared))
  if not s.connected then disarm(k.timers, cid) end
  if not kept then rcall('UNLINK', k.subscriptions, k.queue, k.received) end
  local is_seated = (seat or a.seat == '') and 1 or 0
  local session = { kept and 1 or 0, incarnation, epoch, head, tail, sent, expiry, repeats, is_seated }
  return { will_due, discarded, gone, session, previous, kept and little_contents(k, s), clock }
end

-- Starts the timers of a session whose owner is gone since `now`; answers when the first of them goes off.
local function leave(k, cid, s, now)
  local first = false
  rcall('HSET', k.session, 'o', '')
  if s.W then
    local at = now + math.min(s.D, s.y) * 1000
    rcall('HSET', k.session, 'U', at)
    arm(k.timers, at, 'w:' .. cid)
    first = at
  end
  if not s.never then
    local at = now + s.y * 1000
    rcall('HSET', k.session, 'x', at)
    arm(k.timers, at, 'x:' .. cid)
    first = first or at
  end
  return first
end

-- A session has no owner any more: it ends now if it has no time left, and leaves its Will; else its timers start. With
-- `is_dead` its worker did not say what it sent. Answers what it held, and how long it is until the first of its timers goes
-- off.
local function let_go(k, cid, s, now, grace, sent, is_dead)
  if s.y == 0 and grace == 0 then
    if s.W then adopt(k.timers, k.orphans, cid, s, now) end
    local has_left = bequeath(k, cid, s, is_dead and s.t or sent)
    -- It has no timers: it was connected until now.
    remove_unarmed(k, cid)
    return { freed(s), (s.W or has_left) and 0 or false }
  end
  rcall('HSET', k.session, 's', sent)
  if is_dead then rcall('HSET', k.session, 'z', s.t) end
  local first = leave(k, cid, s, now + grace)
  return { false, first and first - now }
end

-- Ends the session of its owner if nothing of it is to be left, as of most clean ones: without a look at all that a session may
-- have. Answers what it held, or nothing when there is more to do.
local function end_empty(k, a) -- as ops.release
  local have = rcall('HMGET', k.session, 'i', 'e', 'n', 'o', 'l', 'b', 'f', 'W', 'k', 'u')
  local is_owner = have[1] == a.incarnation and have[2] == a.epoch and have[3] == a.nonce and have[4] ~= ''
  if not is_owner or have[5] ~= '0' or (have[8] and a.keep_will == '1') then return nil end
  remove_unarmed(k, a.client_id)
  return { { 0, tonumber(have[6]), tonumber(have[7]), have[9], have[9] and have[10] }, false }
end

-- A session that others let go of, since they took its owner for dead, and that nobody has had since: its owner has a last word.
-- A Will that somebody is publishing stays with them.
local function take_back(k, a) -- as ops.release
  local have = rcall('HMGET', k.session, 'i', 'e', 'n')
  if have[1] ~= a.incarnation or have[2] ~= a.epoch or have[3] ~= a.nonce then return false end
  local s = whole(k)
  if s.A then
    adopt(k.timers, k.orphans, a.client_id, s, s.A)
    rcall('HDEL', k.session, 'W', 'D')
  end
  disarm(k.timers, a.client_id)
  rcall('HDEL', k.session, 'x', 'U', 'A', 'K', 'H', 'z')
  return true
end

function ops.release(k, a)
  local is_over = a.expiry_s == '0' and a.grace_ms == '0' and end_empty(k, a)
  if is_over then return is_over end
  local cid, expiry, keep_will, now, grace = a.client_id, a.expiry_s, a.keep_will == '1', moment(a.now), tonumber(a.grace_ms)
  local no = refusal(k.session, a.incarnation, a.epoch, a.nonce)
  if no and not take_back(k, a) then
    take_last_word(k, a.incarnation, a.epoch .. ':' .. a.nonce, keep_will, now)
    return no
  end
  local s = whole(k)
  local has_will = s.W
  s.y, s.never = tonumber(expiry), expiry == EXPIRY_NEVER
  if not keep_will then s.W = nil end
  if s.y > 0 or grace > 0 then
    rcall('HSET', k.session, 'y', expiry)
    if has_will and not keep_will then rcall('HDEL', k.session, 'W', 'D') end
  end
  return let_go(k, cid, s, now, grace, math.max(s.h, math.min(tonumber(a.sent), s.t)))
end

function ops.drop_will(k, a)
  local no = refusal(k.session, a.incarnation, a.epoch, a.nonce)
  if no then return no end
  return rcall('HDEL', k.session, 'W', 'D')
end

function ops.bury(k, a)
  local s = whole(k)
  if not s or s.i ~= a.incarnation or not s.connected or s.r ~= a.run then return false end
  return let_go(k, a.client_id, s, moment(a.now), tonumber(a.grace_ms), sent_bound(k.queue, s), true)
end

function ops.abandon(k, a)
  local cid, incarnation, run, now, owner = a.client_id, a.incarnation, a.run, moment(a.now), a.worker
  local s = whole(k)
  if not s or s.i ~= incarnation then return false end
  if s.connected then
    if s.o ~= owner or s.r == run then return false end
    return let_go(k, cid, s, now, 0, sent_bound(k.queue, s), true)
  end
  if s.A and s.K == owner then
    -- Queues may have it under its number.
    rcall('HDEL', k.session, 'A', 'K')
    arm(k.timers, s.U, 'w:' .. cid)
    return { false, math.max(0, s.U - now) }
  end
  return false
end

function ops.rearm(k, a)
  local all, now = rcall('HGETALL', k.orphans), moment(a.now)
  for at = 1, #all, 2 do
    if string.sub(all[at], 1, 1) == 's' then
      arm(k.timers, LEFT_AT, 's:' .. string.sub(all[at], 2))
    elseif all[at] ~= '' then
      local record = cmsgpack.unpack(all[at + 1])
      if record[1] == a.worker or record[1] == '' then
        rcall('HSET', k.orphans, all[at], cmsgpack.pack({ '', record[2], record[3], record[4], record[5] or false }))
        arm(k.timers, now, 'o:' .. all[at])
      end
    end
  end
  return 1
end

function ops.subscribe(k, a)
  local no = refusal(k.session, a.incarnation, a.epoch, a.nonce)
  if no then return no end
  local seen, flags, new = {}, {}, 0
  for at = first.subscriptions, #a, 2 do
    local filter = a[at]
    if not seen[filter] then
      seen[filter] = true
      if rcall('HEXISTS', k.subscriptions, filter) == 0 then new = new + 1 end
    end
  end
  if new > 0 and tonumber(rcall('HGET', k.session, 'f')) + new > tonumber(a.subscriptions_max) then return word.QUOTA end
  for at = first.subscriptions, #a, 2 do
    flags[#flags + 1] = 1 - rcall('HSET', k.subscriptions, a[at], a[at + 1])
  end
  if #flags > 0 then rcall('HSET', k.subscriptions, '', '') end
  if new > 0 then rcall('HINCRBY', k.session, 'f', new) end
  return { new, flags }
end

function ops.unsubscribe(k, a)
  local no = refusal(k.session, a.incarnation, a.epoch, a.nonce)
  if no then return no end
  local flags, gone = {}, 0
  for at = first.filters, #a do
    local was = rcall('HDEL', k.subscriptions, a[at])
    gone = gone + was
    flags[#flags + 1] = was
  end
  if gone > 0 then rcall('HINCRBY', k.session, 'f', -gone) end
  return { gone, flags }
end

function ops.confirm(k, a)
  return refusal(k.session, a.incarnation, a.epoch, a.nonce) or 1
end

function ops.read_queue(k, a)
  local no = refusal(k.session, a.incarnation, a.epoch, a.nonce)
  if no then return no end
  local s = rcall('HMGET', k.session, 'h', 't')
  local head, tail = tonumber(s[1]), tonumber(s[2])
  local number = math.max(head, math.min(tonumber(a.from), tail))
  local records_max, bytes_max = tonumber(a.messages_max), tonumber(a.bytes_max)
  local page, records, bytes, chunk = { number }, 0, 0, PAGE_CHUNK_MIN
  while number < tail do
    local names = {}
    for ahead = number, math.min(number + chunk, tail) - 1 do names[#names + 1] = text(ahead) end
    for at, record in ipairs(rcall('HMGET', k.queue, unpack(names))) do
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

-- Answers what was there.
function ops.receive(k, a)
  local no = refusal(k.session, a.incarnation, a.epoch, a.nonce)
  if no then return no end
  local have = rcall('HGET', k.received, a.packet_id)
  if have then return { have } end
  rcall('HSET', k.received, a.packet_id, a.known, '', '')
  return { false }
end

function ops.received(k, a)
  if rcall('HGET', k.session, 'i') == a.incarnation and rcall('HGET', k.received, a.packet_id) == a.pending then
    rcall('HSET', k.received, a.packet_id, a.routed)
    return 1
  end
  return 0
end

function ops.forget(k, a)
  local no = refusal(k.session, a.incarnation, a.epoch, a.nonce)
  if no then return no end
  return { rcall('HDEL', k.received, a.packet_id) }
end

function ops.list(k, a)
  local from = '-'
  if a.after ~= '' then from = '(' .. a.after end
  return { rcall('ZRANGEBYLEX', k.index, from, '+', 'LIMIT', 0, a.clients_max), rcall('HLEN', k.orphans) }
end

function ops.inspect(k)
  local s = rcall('HMGET', k.session, 'i', 'o', 'r', 'l', 'b', 'f', 'K')
  if not s[1] then return false end
  return s
end

function ops.route(k)
  local m = rcall('HMGET', k.session, 'i', 'e', 'v')
  if not m[1] or m[3] == '1' then return false end
  return { m[1], m[2], rcall('HGETALL', k.subscriptions) }
end

function ops.tails(k, a)
  local tails = {}
  for at, m in ipairs(k) do
    local s = rcall('HMGET', m, 'i', 't')
    tails[at] = s[1] == a[at] and tonumber(s[2]) or 0
  end
  return tails
end

-- Answers what is due, and how long it is until something is. What sessions leave may be much: it comes last.
function ops.due(k, a)
  local at, room = moment(a.now), tonumber(a.entries_max)
  local now = string.format('%.0f', at)
  local due = rcall('ZRANGEBYSCORE', k.timers, '(' .. LEFT_AT, now, 'WITHSCORES', 'LIMIT', 0, a.entries_max)
  room = room - #due / 2
  if room > 0 then
    local left = rcall('ZRANGEBYSCORE', k.timers, '-inf', LEFT_AT, 'WITHSCORES', 'LIMIT', 0, text(room))
    for _, item in ipairs(left) do due[#due + 1] = item end
  end
  local later = rcall('ZRANGEBYSCORE', k.timers, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  later = later[2] or false
  if later and later ~= 'inf' then later = string.format('%.0f', tonumber(later) - at) end
  return { due, later }
end

function ops.take_will(k, a)
  local s, now = whole(k), moment(a.now)
  local member, again = 'w:' .. a.client_id, now + tonumber(a.again_ms)
  local at = rcall('ZSCORE', k.timers, member)
  if not at or tonumber(at) > now then return false end
  if not s or s.connected or not s.W then
    rcall('ZREM', k.timers, member)
    return false
  end
  local number = s.H or next_number(k.orphans)
  rcall('HSET', k.session, 'A', again, 'K', a.worker, 'H', number)
  arm(k.timers, again, member)
  return { a.client_id, s.i, { s.W, number, s.u } }
end

function ops.take_expiry(k, a)
  local s, now = whole(k), moment(a.now)
  local member = 'x:' .. a.client_id
  local at = rcall('ZSCORE', k.timers, member)
  if not at or tonumber(at) > now then return false end
  if not s or s.connected or not s.x or s.x > now then
    rcall('ZREM', k.timers, member)
    return false
  end
  if s.W then adopt(k.timers, k.orphans, a.client_id, s, s.A or s.U or now) end
  bequeath(k, a.client_id, s, sent_bound(k.queue, s))
  remove(k, a.client_id)
  return { a.client_id, s.i, freed(s) }
end

function ops.take_orphan(k, a)
  local member, now = 'o:' .. a.name, moment(a.now)
  local at = rcall('ZSCORE', k.timers, member)
  if not at or tonumber(at) > now then return false end
  local record = rcall('HGET', k.orphans, a.name)
  if not record then
    rcall('ZREM', k.timers, member)
    return false
  end
  record = cmsgpack.unpack(record)
  local number = record[4]
  if number == 0 then number = next_number(k.orphans) end
  local principal = record[5] or false
  rcall('HSET', k.orphans, a.name, cmsgpack.pack({ a.worker, record[2], record[3], number, principal }))
  arm(k.timers, now + tonumber(a.again_ms), member)
  return { record[2], string.match(a.name, '^%d+'), { record[3], number, principal } }
end

function ops.take_left(k, a)
  local member, now = 's:' .. a.name, moment(a.now)
  local at = rcall('ZSCORE', k.timers, member)
  if not at or tonumber(at) > now then return false end
  local record = rcall('HGET', k.orphans, 's' .. a.name)
  if not record then
    rcall('ZREM', k.timers, member)
    return false
  end
  record = cmsgpack.unpack(record)
  arm(k.timers, now + tonumber(a.again_ms), member)
  local incarnation, number = string.match(a.name, '^(%d+):(%d+)$')
  return { record[1], incarnation, { number, record[2], record[3] } }
end

-- Other members have it.
function ops.finish_left(k, a)
  local name = a.incarnation .. ':' .. a.number
  rcall('HDEL', k.orphans, 's' .. name)
  rcall('ZREM', k.timers, 's:' .. name)
  return 1
end

-- A Will has been published.
function ops.finish_will(k, a)
  local front = a.incarnation .. ':'
  for _, name in ipairs(rcall('HKEYS', k.orphans)) do
    if string.sub(name, 1, #front) == front
      and cmsgpack.unpack(rcall('HGET', k.orphans, name))[4] == tonumber(a.number) then
      rcall('HDEL', k.orphans, name)
      rcall('ZREM', k.timers, 'o:' .. name)
      return 1
    end
  end
  local s = rcall('HMGET', k.session, 'i', 'A', 'H')
  if s[1] == a.incarnation and s[2] and s[3] == a.number then
    rcall('HDEL', k.session, 'W', 'D', 'U', 'A', 'K', 'H')
    rcall('ZREM', k.timers, 'w:' .. a.client_id)
  end
  return 1
end

-- The field with the empty name counts the bytes.
local function retained_bytes(v, delta)
  if delta ~= 0 then rcall('HINCRBY', v, '', delta) end
end

-- A bit of a retained message's flags says that it has a seat (see seats.lua). Then `owners` has its token, and whose it is.
local function owner_of_retained(k, topic, record) -- as ops.retain
  local is_counted = math.floor(string.byte(record, 7) / 16) % 2 == 1
  return is_counted and rcall('HGET', k.owners, topic)
end

local function principal_of(owner)
  return string.match(owner, '^%d+:(.*)$')
end

local function forget_retained(k, topic, old) -- as ops.retain
  local size, owner = size_of(old), owner_of_retained(k, topic, old)
  retained_bytes(k.values, -size)
  rcall('HDEL', k.values, topic)
  rcall('ZREM', k.topics, topic)
  if owner then rcall('HDEL', k.owners, topic) end
  return { -1, -size, owner }
end

-- Whose a message is that is retained now. Answers the owner of the one before, if that is in use no more.
local function own_retained(k, a, owner, is_own) -- as ops.retain
  if a.seat == word.SEAT then
    rcall('HSET', k.owners, a.topic, a.token .. ':' .. a.principal, '', '')
  elseif owner and not is_own then
    rcall('HDEL', k.owners, a.topic)
  end
  return owner and not is_own and owner
end

function ops.retain(k, a)
  local topic, record = a.topic, a.record
  local old = rcall('HGET', k.values, topic)
  if record == '' then
    if old then return forget_retained(k, topic, old) end
    return { 0, 0, false }
  end
  local delta = tonumber(a.size)
  if old then delta = delta - size_of(old) elseif a.may_add ~= '1' then return word.QUOTA end
  if delta > 0 and delta > tonumber(a.bytes_max) then return word.QUOTA end
  local owner = old and owner_of_retained(k, topic, old)
  local is_own = owner and a.seat ~= '' and principal_of(owner) == a.principal
  if a.seat == word.NO_SEAT and not is_own then return word.UNSEATED end
  rcall('HSET', k.values, topic, record)
  retained_bytes(k.values, delta)
  local left = own_retained(k, a, owner, is_own)
  if old then return { 0, delta, left } end
  rcall('ZADD', k.topics, 0, topic)
  return { 1, delta, left }
end

function ops.forget_expired(k, a)
  local old = rcall('HGET', k.values, a.topic)
  if old ~= a.record then return { 0, 0, false } end
  return forget_retained(k, a.topic, old)
end

-- Answers the last topic that was looked at, or nothing at the end, what that frees, and topics with their owners.
function ops.forget_all_expired(k, a)
  local topics = rcall('ZRANGEBYLEX', k.topics, a.after == '' and '-' or '(' .. a.after, '+', 'LIMIT', 0, a.topics_max)
  if #topics == 0 then return { false, 0, 0, {} } end
  local now, bytes, expired, owned = tonumber(a.now), 0, {}, {}
  for at, record in ipairs(rcall('HMGET', k.values, unpack(topics))) do
    -- Behind the front of a record without identifiers, its flags and when it was published.
    local expires_at = record and struct.unpack('<I8', record, 19) or 0
    if expires_at > 0 and expires_at <= now then
      expired[#expired + 1] = topics[at]
      bytes = bytes + size_of(record)
      local owner = owner_of_retained(k, topics[at], record)
      if owner then add(owned, topics[at], owner) end
    end
  end
  if #expired > 0 then
    retained_bytes(k.values, -bytes)
    rcall('HDEL', k.values, unpack(expired))
    rcall('ZREM', k.topics, unpack(expired))
    for at = 1, #owned, 2 do rcall('HDEL', k.owners, owned[at]) end
  end
  return { #topics == tonumber(a.topics_max) and topics[#topics] or false, -#expired, -bytes, owned }
end

function ops.topics(k, a)
  return rcall('ZRANGEBYLEX', k.topics, a.from, a.to, 'LIMIT', 0, a.topics_max)
end

-- Answers fewer than it is asked for when they, or those before them in the call, are too large; the first operation of a call
-- always answers one.
function ops.values(k, a)
  local values = {}
  for at, topic in ipairs(a) do
    if values_left <= 0 then break end
    local value = rcall('HGET', k.values, topic)
    local size = value and #value or 0
    if size > values_left and values_left < VALUES_BYTES_MAX then
      values_left = 0
      break
    end
    values[at], values_left = value, values_left - size
  end
  return values
end

function ops.retained_counts(k)
  return { rcall('ZCARD', k.topics), tonumber(rcall('HGET', k.values, '') or '0') }
end
