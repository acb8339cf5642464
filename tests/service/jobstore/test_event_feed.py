"""The feed of all changes: each once, in order, whatever happens to its reader, to Redis, or to the outbox."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
import redis

from farm import clock
from farm.domain.errors import StoreUnavailable
from farm.domain.job import BEGINNING, Change, Moment
from farm.jobstore import event_feed as module
from farm.jobstore import redis_keys
from farm.jobstore.connection import connect, connect_to_listen
from farm.jobstore.event_feed import EventFeed, FeedPage
from farm.jobstore.store import JobStore
from farm.process.embedded_redis import EmbeddedRedis
from tests.farms import wait_for
from tests.service.jobstore import jobs
from tests.service.jobstore.jobs import TERMS
from tests.threads import ended_background_threads


@pytest.fixture
def feed(client: redis.Redis, listening: redis.Redis) -> EventFeed:
    """Return the feed of an empty Redis."""
    return EventFeed(listening)


def follow(feed: EventFeed, after: Moment | None = None, caller: str | None = None) -> Iterator[FeedPage]:
    """Follow new changes; the listener has joined when this returns."""
    news = feed.follow(after, caller=caller, idle_seconds=0.02)
    first = next(news)

    def all_of_it() -> Iterator[FeedPage]:
        with closing(news):  # type: ignore[type-var]
            yield first
            yield from news

    return all_of_it()


def hear(news: Iterator[FeedPage], count: int) -> list[Change]:
    """Return the next changes, at least so many."""
    heard: list[Change] = []
    while len(heard) < count:
        heard += next(news).changes
    return heard


def moments(changes: list[Change]) -> list[str]:
    return [str(change.moment) for change in changes]


def run_jobs(store: JobStore, count: int, *, worker: str = "w1", caller: str = "ada") -> None:
    """Let jobs be created, processed and completed: three changes each."""
    for _ in range(count):
        jobs.submit(store, caller)
        for job in jobs.take(store, worker):
            store.complete(job, jobs.result(job))


def readers(client: redis.Redis) -> int:
    """Return how many connections wait for new entries of the outbox."""
    return sum(item["cmd"] == "xread" and "b" in item["flags"] for item in client.client_list())


def test_every_change_is_delivered_once_in_order(feed: EventFeed, client: redis.Redis, store: JobStore) -> None:
    """Many listeners follow the feed while four threads write."""
    listeners = [follow(feed) for _ in range(8)]
    with ThreadPoolExecutor(12) as pool:
        heard = [pool.submit(hear, news, 4 * 50 * 3) for news in listeners]
        for number in range(4):
            pool.submit(run_jobs, store, 50, worker=f"w{number}")

    result = jobs.outbox(client)
    assert len(result) == 600
    assert all(moments(listener.result()) == result for listener in heard)


def test_a_change_says_what_happened(feed: EventFeed, client: redis.Redis, store: JobStore) -> None:
    news = follow(feed)
    job_id = jobs.submit(store)
    store.cancel(job_id)

    created, failed = hear(news, 2)

    assert [str(created.moment), str(failed.moment)] == jobs.outbox(client)
    assert (created.job, created.state, created.sequence, created.code) == (job_id, "created", 1, "")
    assert (failed.job, failed.state, failed.sequence, failed.code) == (job_id, "failed", 2, "cancelled")
    assert (failed.caller, failed.endpoint) == ("ada", "flux/srpo")


def test_a_follower_resumes_without_loss_or_repetition(
    feed: EventFeed, client: redis.Redis, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages come from Redis, then from memory: no change is lost or repeated between them, while more are written."""
    monkeypatch.setattr(module, "_PAGE_SIZE", 7)
    run_jobs(store, 100)
    result = jobs.outbox(client)
    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(run_jobs, store, 100)
        heard = hear(follow(feed, Moment.parse(result[9])), 590)
        writing.result()

    assert moments(heard) == jobs.outbox(client)[10:]


def test_a_slow_listener_catches_up(
    feed: EventFeed, client: redis.Redis, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has fallen behind what is kept in memory reads the rest from Redis; another one is not held up."""
    monkeypatch.setattr(module, "_MAX_KEPT", 5)
    slow, quick = follow(feed), follow(feed)
    for _ in range(10):
        run_jobs(store, 4)
        hear(quick, 12)

    assert len(feed._changes) <= 10
    assert moments(hear(slow, 120)) == jobs.outbox(client)


def test_a_backlog_is_delivered_page_by_page(feed: EventFeed, store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Therefore a slow connection never has more than a page waiting."""
    monkeypatch.setattr(module, "_PAGE_SIZE", 10)
    news = follow(feed)
    run_jobs(store, 20)

    pages = [len(next(news).changes)]
    while sum(pages) < 60:
        pages.append(len(next(news).changes))

    assert max(pages) == 10


def test_a_gap_is_reported(feed: EventFeed, client: redis.Redis, store: JobStore) -> None:
    """Entries that were trimmed from the outbox are lost: the feed goes on with the oldest one there."""
    run_jobs(store, 4)
    result = jobs.outbox(client)
    client.xtrim(redis_keys.OUTBOX, maxlen=5, approximate=False)

    news = next(follow(feed, Moment.parse(result[3])))

    assert news.gap
    assert moments(list(news.changes)) == result[-5:]
    assert not next(follow(feed, Moment.parse(result[-5]))).gap
    assert not next(follow(feed, BEGINNING)).gap


def test_a_gap_is_reported_to_a_listener_that_is_overtaken(
    feed: EventFeed, client: redis.Redis, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outbox is trimmed beyond the cursor of a listener, and beyond the page in memory."""
    monkeypatch.setattr(module, "_MAX_KEPT", 2)
    run_jobs(store, 1)
    slow, quick = follow(feed), follow(feed)
    for _ in range(4):
        run_jobs(store, 1)
        hear(quick, 3)
    client.xtrim(redis_keys.OUTBOX, maxlen=5, approximate=False)

    heard = [next(slow), next(slow)]

    assert [news.gap for news in heard] == [False, True]
    assert moments(list(heard[1].changes)) == jobs.outbox(client)


def test_a_place_that_is_not_reached_yet_is_a_gap(feed: EventFeed, client: redis.Redis, store: JobStore) -> None:
    """The cursor is of another Redis, or of one that lost its end: the feed goes on with new changes."""
    run_jobs(store, 1)
    news = follow(feed, Moment(2**63, 0))
    assert next(news) == FeedPage((), Moment.parse(jobs.outbox(client)[-1]), gap=True)

    run_jobs(store, 1)

    assert moments(hear(news, 3)) == jobs.outbox(client)[3:]


def test_callers_hear_their_own(feed: EventFeed, store: JobStore) -> None:
    """They also get their cursor, whatever happens to other callers' jobs."""
    hers, his, everybodys = follow(feed, caller="ada"), follow(feed, caller="bob"), follow(feed)
    run_jobs(store, 2, caller="ada")
    run_jobs(store, 3, caller="bob")

    assert {change.caller for change in hear(hers, 6)} == {"ada"}
    assert {change.caller for change in hear(his, 9)} == {"bob"}
    last = hear(everybodys, 15)[-1].moment
    assert wait_for(lambda: next(news for news in hers if not news.changes).upto == last)


def test_a_reader_that_was_stopped_for_long_begins_anew(
    feed: EventFeed, client: redis.Redis, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outbox was cut meanwhile where it stood, which it would not see; who listens is told of the gap."""
    monkeypatch.setattr(module, "_MAX_SILENCE_SECONDS", 0.0)
    news = follow(feed)
    run_jobs(store, 1)
    hear(news, 3)
    with feed._changed:  # which the reader needs, too
        run_jobs(store, 10)
        client.xtrim(redis_keys.OUTBOX, maxlen=5, approximate=False)

    late = next(item for item in islice(news, 200) if item.gap)

    assert moments(list(late.changes)) == jobs.outbox(client)


def test_a_feed_without_listeners_costs_nothing(feed: EventFeed, client: redis.Redis, store: JobStore) -> None:
    """One connection reads for all, and none when they are gone; who comes then hears as before."""
    wait_for(lambda: readers(client) == 0)
    listeners = [follow(feed) for _ in range(20)]
    wait_for(lambda: readers(client) == 1)
    listeners.clear()
    wait_for(lambda: readers(client) == 0)

    news = follow(feed)
    run_jobs(store, 1)

    assert moments(hear(news, 3)) == jobs.outbox(client)


# Redis away


class Outbox:
    """A Redis that a test may stop, and a feed of it."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.server = EmbeddedRedis(data_dir)
        self.server.start()
        self.client = connect(self.server.url)
        self.store = JobStore(self.client, TERMS)
        self.listening = connect_to_listen(self.server.url)
        self.feed = EventFeed(self.listening)

    def kill(self) -> None:
        assert self.server.process is not None
        self.server.process.kill()
        self.server.process.wait()


@pytest.fixture
def outbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outbox]:
    monkeypatch.setattr(module, "_RECONNECT_SECONDS", 0.02)
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0)  # it reads when Redis is killed, however soon another one is there
    outbox = Outbox(tmp_path)
    with ended_background_threads():
        yield outbox
    outbox.listening.close()
    outbox.client.close()
    outbox.server.stop()


def test_a_redis_that_was_away_leaves_no_gap(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence while it is away; then everything, once, also what was changed before the reader was back.

    Also for a listener that has fallen behind what is kept in memory.
    """
    monkeypatch.setattr(module, "_MAX_KEPT", 1)
    news, slow = follow(outbox.feed), follow(outbox.feed)
    next(slow)
    run_jobs(outbox.store, 3)
    heard = hear(news, 9)
    outbox.kill()
    silence = [next(listener) for listener in (news, slow) for _ in range(5)]
    outbox.server.start()
    run_jobs(outbox.store, 20)
    heard += hear(news, 60)

    assert not any(item.changes or item.gap for item in silence)
    assert moments(heard) == moments(hear(slow, 69)) == jobs.outbox(outbox.client)


def test_following_is_refused_while_redis_is_away(outbox: Outbox) -> None:
    outbox.kill()
    for after in (None, Moment(1, 0)):
        with pytest.raises(StoreUnavailable):
            follow(outbox.feed, after)
    outbox.server.start()


def test_a_redis_that_comes_back_empty_is_a_gap(outbox: Outbox) -> None:
    """Anyone who listens is told, hears what comes, and does not spin meanwhile."""
    news = follow(outbox.feed)
    run_jobs(outbox.store, 1)
    hear(news, 3)
    outbox.kill()
    for file in (outbox.server._folder / "appendonlydir").iterdir():
        file.unlink()
    outbox.server = EmbeddedRedis(outbox.data_dir)  # that of a farm which starts anew
    outbox.server.start()
    assert wait_for(lambda: next(news).gap)
    began = clock.monotonic()
    quiet = [next(news) for _ in range(20)]
    took = clock.monotonic() - began
    run_jobs(outbox.store, 1)

    assert not any(item.gap or item.changes for item in quiet)
    assert took > 20 * 0.015
    assert moments(hear(news, 3)) == jobs.outbox(outbox.client)


def test_a_redis_that_is_emptied_is_asked_at_leisure(feed: EventFeed, client: redis.Redis, store: JobStore) -> None:
    """Old and new listeners do not poll it in a busy loop, and all continue with the next change."""
    run_jobs(store, 1)
    listens = follow(feed)
    run_jobs(store, 1)
    hear(listens, 3)
    client.flushall()
    comes = follow(feed)
    next(comes)
    began = clock.monotonic()
    for _ in range(10):
        assert not next(listens).changes
        assert not next(comes).changes
    took = clock.monotonic() - began
    run_jobs(store, 1)

    assert took > 20 * 0.015
    assert moments(hear(listens, 3)) == moments(hear(comes, 3)) == jobs.outbox(client)
