"""What a CDN before the API may keep: answers that its purges reach, and nothing else.

`Surrogate-Control` is for the CDN alone: Fastly, or our Varnish, takes it for its own time and browsers still ask each time
(`Cache-Control: no-cache`). `CDN-Cache-Control` isn't sent: it would also be heard by caches that we can't purge.
"""

from collections.abc import Sequence

from falcon.asgi import Request, Response

from api.cache.entries import Level
from api.cache.tags import Purges
from db.tags import EVERYTHING
from pipeline.cdn import surrogate_keys

# An aggregate that was purged is served once more while it is fetched anew, within so many seconds.
REFRESH_S = 2
# And any answer when the API is down, for a day after its time.
OUTAGE_S = 86_400


class Cdn:
    """Marks the answers that a CDN may keep."""

    def __init__(self, purges: Purges) -> None:
        self._purges = purges

    def stamp(self) -> int:
        """Return what to mark an answer with; ask before it is looked for."""
        return self._purges.stamp()

    def mark(self, resp: Response, tags: Sequence[str], level: Level, *, left_s: float, stamp: int) -> None:
        """Let an answer be kept for the rest of its time, unless one of its tags was purged since `stamp`.

        Its purge may have been through the CDN before it gets there, and none will follow it.
        """
        if left_s < 1 or level == "stale" or not self._purges.hold(tags, stamp):
            return
        resp.set_header("Surrogate-Key", surrogate_keys((EVERYTHING, *tags)))
        resp.set_header(
            "Surrogate-Control",
            f"max-age={int(left_s)}, stale-while-revalidate={REFRESH_S}, stale-if-error={OUTAGE_S}",
        )


class Unmarked:
    """Forbids a CDN to keep anything else: Fastly keeps for an hour what names no time, and heeds no `no-cache`."""

    async def process_response(self, req: Request, resp: Response, resource: object, succeeded: bool) -> None:
        if resp.get_header("Surrogate-Control") is None and "max-age" not in (resp.get_header("Cache-Control") or ""):
            resp.set_header("Surrogate-Control", "max-age=0")
