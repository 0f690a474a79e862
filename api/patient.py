"""Redis as the threads of reads ask it, while someone waits: within two seconds, or not at all."""

from functools import cache

from redis import Redis

from api.room import Room

_PATIENCE_S = 2.0


@cache
def redis_of(room: Room) -> Redis:
    """Return the one such client of a process."""
    return Redis.from_url(
        room.settings.redis_url.get_secret_value(), socket_timeout=_PATIENCE_S, socket_connect_timeout=_PATIENCE_S
    )
