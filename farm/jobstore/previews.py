"""Previews on their way from a worker to those who watch a job: published, never stored."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict

import redis

from farm.domain.preview import Preview
from farm.jobstore import redis_keys
from farm.jobstore.connection import translated


class PreviewChannels:
    """The channels of previews, one for each job."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def watched(self, job_ids: Collection[str]) -> frozenset[str]:
        """Return those of these jobs whose previews somebody waits for."""
        if not job_ids:
            return frozenset()
        channels = {redis_keys.previews_channel(job_id): job_id for job_id in job_ids}
        with translated():
            counts = self._redis.pubsub_numsub(*channels)
        return frozenset(channels[str(channel)] for channel, count in counts if count)

    def publish(self, job_id: str, preview: Preview) -> None:
        """Send a preview to those who wait for it now."""
        with translated():
            self._redis.publish(redis_keys.previews_channel(job_id), json.dumps(asdict(preview)))


def parse(text: str) -> Preview:
    """Return the preview that was published as this text."""
    return Preview(**json.loads(text))
