-- How a call is carried out: its operations one after the other, a write once.

-- More than this at once might not have room on Lua's stack.
local SLICE_MAX = 256

local function slice(list, from, count)
  if count <= SLICE_MAX then return { unpack(list, from, from + count - 1) } end
  local part = {}
  for at = 1, count do part[at] = list[from + at - 1] end
  return part
end

local function run(keys, args, key, arg)
  local answers = {}
  values_left = VALUES_BYTES_MAX
  while arg <= #args do
    local name, key_count, arg_count = args[arg], tonumber(args[arg + 1]), tonumber(args[arg + 2])
    arg = arg + 3
    local k, a = slice(keys, key, key_count), slice(args, arg, arg_count)
    key, arg = key + key_count, arg + arg_count
    answers[#answers + 1] = ops[name](k, a)
  end
  return answers
end

-- keys[1] holds the outcome of the caller's last call in this slot, args[1] says which call this is (16 digits): a call
-- that comes again is answered as before, one that was overtaken is refused.
local function write(keys, args)
  local last = rcall('GET', keys[1])
  if last then
    local number = string.sub(last, 1, 16)
    if number == args[1] then
      rcall('SET', keys[1], last, 'PX', OUTCOME_MS)
      return cmsgpack.unpack(string.sub(last, 17))
    end
    if number > args[1] then return redis.error_reply('OVERTAKEN a later call was carried out') end
  end
  local answers = run(keys, args, 2, 2)
  rcall('SET', keys[1], args[1] .. cmsgpack.pack(answers), 'PX', OUTCOME_MS)
  return answers
end

local function read(keys, args)
  return run(keys, args, 1, 1)
end

redis.register_function('@NAME@_write', write)
redis.register_function('@NAME@_read', read)
