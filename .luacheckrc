-- The job store's scripts as Redis runs them: each may name every shared function, and gets those that it names.
std = "lua51"
max_line_length = 140
max_cyclomatic_complexity = false

local SHARED = "farm/jobstore/lua/shared"

local names = {"redis", "cjson", "KEYS", "ARGV", "P", "is_allowed", "BUCKETS", "POLICY", "MAX_CALLERS", "OTHER_CALLERS"}
for line in io.popen("cat " .. SHARED .. "/*.lua"):lines() do
  names[#names + 1] = line:match("^local function ([%w_]+)") or line:match("^local ([%w_]+)")
end
read_globals = names

files[SHARED] = {ignore = {"211"}}  -- defined here, used by the scripts
