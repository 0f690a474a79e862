"""GET /method: what the numbers mean, as the platforms declare it and the settings have it."""

from collections.abc import Iterator, Mapping, Sequence

from falcon.asgi import Request, Response
from msgspec import Struct

from api.cache.entries import Content
from api.cached import HTML
from api.dashboard.look import look
from api.operations import Operation, Operations
from api.room import Room
from api.routes import Route
from api.schemas import NoQuery, parse
from db import tags
from db.engine import Connection
from db.gaps import REASONS
from db.totals import CARRIED_DAYS
from pipeline.platforms import Platform
from pipeline.settings import Settings
from pipeline.terms import CallTerms, terms

COUNTS = ("followers", "following", "posts", "engagement")


class Meaning(Struct, frozen=True):
    """What a count of a platform means, or why there is none."""

    says: str
    is_offered: bool


class Declared(Struct, frozen=True, kw_only=True):
    """What a platform declares: its counts by name, how often and by which calls it is read."""

    name: str
    means: Mapping[str, Meaning]
    calls: Sequence[CallTerms]
    quota_a_day: int | None
    read_interval_s: int


class MethodPage:
    """It changes with the code and the settings; the banner at its foot with the readings."""

    operations = Operations(get=Operation(summary="What the numbers mean.", query=NoQuery, media_types=(HTML,)))

    def __init__(self, room: Room) -> None:
        self._settings = room.settings
        self._declared = [declared(one, room.settings) for one in room.platforms.values()]
        self._look = look(room)

    async def on_get(self, req: Request, resp: Response) -> None:
        parse(req.context.params, NoQuery)
        await self._look.give(req, resp, self._read)

    on_head = on_get

    def _read(self, conn: Connection) -> Content:
        return self._look.page(
            conn,
            "method.html",
            here="/method",
            tagged=frozenset({tags.SUMMARY}),
            counts=COUNTS,
            declared=self._declared,
            reasons=REASONS,
            settings=self._settings,
            carried_days=CARRIED_DAYS,
        )


def declared(platform: Platform, settings: Settings) -> Declared:
    """Return what a platform declares, with its limits as they are set."""
    why_not = platform.not_offered.reasons
    told = terms(platform, (), settings)
    return Declared(
        name=platform.name,
        means={
            name: Meaning(why_not.get(name) or getattr(platform.meanings, name), name not in why_not)
            for name in COUNTS
        },
        calls=told.calls,
        quota_a_day=told.quota_a_day,
        read_interval_s=settings.interval_s(platform, "profiles"),
    )


def routes(room: Room) -> Iterator[Route]:
    yield "/method", MethodPage(room)
