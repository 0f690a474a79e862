"""Redis, the message broker, and the CDNs."""

from collections.abc import Iterator

from redis import Redis, RedisError

from pipeline.app import VISIBILITY_S, make_celery
from pipeline.cdn import CdnError, configured
from pipeline.cdn_queue import Waiting
from pipeline.doctor.finding import Finding, brief
from pipeline.messages import broker_errors
from pipeline.settings import Settings

# beat speaks for a CDN every second, and another beat takes over after ten.
CDN_SILENT_S = 15.0
_CONNECT_S = 3.0


def redis(settings: Settings) -> Iterator[Finding]:
    with _redis_client(settings) as client:
        try:
            client.ping()
        except RedisError as exc:
            yield Finding("fail", "redis", brief(exc), "start Redis or correct REDIS_URL")
            return
        yield Finding("ok", "redis", "answers")
        if not settings.broker_url:
            yield from _durability(client)


def _redis_client(settings: Settings) -> Redis:
    url = settings.redis_url.get_secret_value()
    return Redis.from_url(url, socket_timeout=_CONNECT_S, socket_connect_timeout=_CONNECT_S)


def _durability(client: Redis) -> Iterator[Finding]:
    """Look whether the broker keeps its messages. The database outlives their loss, but it costs a lease's time."""
    try:
        kept = client.config_get("appendonly")["appendonly"] == "yes"
        policy = client.config_get("maxmemory-policy")["maxmemory-policy"]
    except (RedisError, KeyError):
        yield Finding("warn", "redis keeps", "can't be asked: the server hides its configuration", "see its console")
        return
    if not kept:
        yield Finding("warn", "redis keeps", "messages are lost at a restart", "set `appendonly yes` in redis.conf")
    if policy != "noeviction":
        mend = "set `maxmemory-policy noeviction` in redis.conf"
        yield Finding("warn", "redis keeps", f"messages may be dropped when memory is full ({policy})", mend)
    if kept and policy == "noeviction":
        yield Finding("ok", "redis keeps", "messages over a restart, none dropped")


def broker(settings: Settings) -> Finding:
    """Look whether the message broker takes connections, within some seconds."""
    away: tuple[type[Exception], ...] = (*broker_errors(settings.broker), ValueError, KeyError)
    try:
        with make_celery(settings).connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=_CONNECT_S)
    except away as exc:
        return Finding(
            "fail",
            "broker",
            brief(exc),
            f"start it or correct {'BROKER_URL' if settings.broker_url else 'REDIS_URL'}",
        )
    return Finding("ok", "broker", "answers")


def visibility(settings: Settings) -> Iterator[Finding]:
    """Look whether Redis gives a message out again while its job is still in hand. The second is turned away: it costs."""
    if not settings.broker.startswith(("redis", "rediss")):
        return
    longest_s = settings.http_deadline_s + settings.job_lease_s
    if longest_s < VISIBILITY_S:
        yield Finding("ok", "visibility timeout", f"{VISIBILITY_S} s, longer than a call and its commit may take")
        return
    said = f"messages come again after {VISIBILITY_S} s, and a job may take {longest_s:g}"
    yield Finding("warn", "visibility timeout", said, "lower HTTP_DEADLINE_S and JOB_LEASE_S")


def cdns(settings: Settings) -> Iterator[Finding]:
    """Look whether each CDN takes purges, by one of a tag that no answer has, and whether it is told of any."""
    for cdn in configured(settings):
        what = f"cdn {cdn.name}"
        try:
            cdn.purge(["rollcall:doctor"], soft=True)
        except CdnError as exc:
            mend = f"{cdn.mend}; until then it shows what it has for up to 15 minutes"
            yield Finding("fail", what, str(exc), mend)
            continue
        if _is_told(settings, cdn.name):
            yield Finding("ok", what, "takes purges")
        else:
            mend = "start beat with the same CDN settings; until then it shows what it has for up to 15 minutes"
            yield Finding("fail", what, "takes purges, but nobody sends it any", mend)


def _is_told(settings: Settings, cdn: str) -> bool:
    with _redis_client(settings) as client:
        try:
            silent_s = Waiting(client, cdn).silent_s()
        except RedisError:
            return True  # not known, and said of Redis already
    return silent_s is not None and silent_s < CDN_SILENT_S
