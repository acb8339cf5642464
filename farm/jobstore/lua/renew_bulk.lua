-- Renew the leases of a process on the bulks that it works on.
-- ARGV: lease_us, then id, fence, id, fence, …
for i = 2, #ARGV, 2 do
  if holds_bulk(ARGV[i], ARGV[i + 1]) then lease_bulk(ARGV[i], tonumber(ARGV[1])) end
end
