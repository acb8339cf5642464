"""Figures from which on something is wrong: alerts fire, dashboards change their colour, and `farm top` says so."""

from __future__ import annotations

#: Share of Redis's memory limit that is in use.
REDIS_MEMORY_SHARE = 0.7
#: Seconds for which the first due webhook delivery has waited: worth a look, and worth an alert.
OVERDUE_SECONDS, OVERDUE_ALERT_SECONDS = 10, 60
#: Free bytes of the data folder's disk, in multiples of those below which something is refused.
DISK_RESERVES = 2
