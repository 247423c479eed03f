-- Seats: what principals have of what they may have so many of, wherever it is stored. Of the seats of some principals one hash says
-- under which token each was taken, and when it was last known to be in use, and a sorted set has them in order, so that those of one
-- principal are one range. Both hold an entry with the empty name, so that they are never empty. Where a bound was met, the hash
-- says under the front that its seats have in common when they were last looked at.

-- A seat is taken; one that is there gets a new token, and is not one more.
function ops.take_seat(k, a)
  local now = time_ms()
  if rcall('HEXISTS', k.seats, a.seat) == 0 then
    if rcall('ZLEXCOUNT', k.seat_order, '[' .. a.front, '(' .. a.behind) >= tonumber(a.seats_max) then
      local looked_at = tonumber(rcall('HGET', k.seats, a.front) or '0')
      if now - looked_at < tonumber(a.look_interval_ms) then return word.QUOTA end
      rcall('HSET', k.seats, a.front, text(now))
      return word.LOOK
    end
    rcall('ZADD', k.seat_order, 0, a.seat, 0, '')
  end
  rcall('HSET', k.seats, a.seat, a.token .. ':' .. text(now), '', '')
  return 1
end

-- Answers the last seat of the page, or nothing at the end, and those that were not known to be in use lately.
function ops.aged_seats(k, a)
  local names = rcall('ZRANGEBYLEX', k.seat_order, a.from, a.to, 'LIMIT', 0, a.seats_max)
  local aged, before = {}, time_ms() - tonumber(a.age_ms)
  if #names == 0 then return { false, aged } end
  for at, entry in ipairs(rcall('HMGET', k.seats, unpack(names))) do
    local token, known_at = string.match(entry or '', '^(%d+):(%d+)$')
    if token and tonumber(known_at) <= before then add(aged, names[at], token) end
  end
  return { #names == tonumber(a.seats_max) and names[#names] or false, aged }
end

-- For each seat, its token, and the front of its principal's if it is in use no more, else nothing. One that was taken anew
-- meanwhile stays.
function ops.settle_seats(k, a)
  local now = text(time_ms())
  for at = first.seats, #a, 3 do
    local seat, token, front = a[at], a[at + 1], a[at + 2]
    if string.match(rcall('HGET', k.seats, seat) or '', '^%d+') == token then
      if front == '' then
        rcall('HSET', k.seats, seat, token .. ':' .. now)
      else
        rcall('HDEL', k.seats, seat, front)
        rcall('ZREM', k.seat_order, seat)
      end
    end
  end
  return 1
end

function ops.has_session(k, a)
  return rcall('HGET', k.session, 'u') == a.principal and 1 or 0
end

function ops.has_retained(k, a)
  local record = rcall('HGET', k.values, a.topic)
  local owner = record and owner_of_retained(k, a.topic, record)
  return owner and principal_of(owner) == a.principal and 1 or 0
end
