"""A cacheable answer over HTTP: coding, validators, and the headers that tell other caches what to do."""

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache

from falcon.asgi import Request, Response
from msgspec import Struct

from api import encodings, problems
from api.cache.answers import Answers, Hit, Want
from api.cache.entries import Answer, Headers, Kept, Key, Level, Variant
from api.cache.making import etag
from api.cache.popular import Asked, Popular
from api.cache.reader import Read
from api.cache.stats import Counts, Stats
from api.cdn import Cdn
from api.request import ApiRequest
from db.profiler import scoped

JSON = "application/json"
HTML = "text/html; charset=utf-8"
# Requests that are longer aren't counted among the popular ones.
_LONGEST_COUNTED = 1_000


class Given(Struct, frozen=True):
    """What a request was answered with. `asked` is None if that is nothing to warm: too long, or not there.

    `made_of` are the headers of these very bytes. One that `is_shared` may be in Redis, too.
    """

    asked: Asked | None
    key: Key
    coding: str
    counts: Counts
    answer: Answer
    etag: str
    made_of: Headers
    is_shared: bool


class Cached:
    """Answers GET and HEAD. `private` keeps answers that need a key out of caches that others share, `cdn` included.

    `pages` names templates, style sheets and scripts as they are now.
    """

    def __init__(
        self, answers: Answers, stats: Stats, popular: Popular, *, private: bool, cdn: Cdn | None, pages: str
    ) -> None:
        self._answers = answers
        self._stats = stats
        self._popular = popular
        self._private = private
        self._cdn = cdn
        self._pages = pages

    async def give(
        self,
        req: Request,
        resp: Response,
        *,
        ttl_s: int,
        read: Read,
        media_type: str = JSON,
        is_shared: bool = True,
    ) -> None:
        """Answer with what the caches hold for this path and query, or with what `read` makes.

        What else the resource says in headers it says before this; the answer depends on path, query and Accept alone.
        """
        assert isinstance(req, ApiRequest)
        if req.met is not None:
            raise req.met.error
        coding = encodings.negotiate(req.get_header("Accept-Encoding"))
        stamp = self._cdn.stamp() if self._cdn else 0
        want = self.want(
            req.path,
            req.context.params,
            str(req.uri_template),
            coding,
            ttl_s=ttl_s,
            read=read,
            media_type=media_type,
            is_shared=is_shared,
        )
        given, (kept, variant, level) = await self.take(want, _asked(req))
        if kept.answer.status == 404 and media_type == HTML and problems.is_for_people(req):
            raise problems.Problem(404, "There is no account of this name in the list.")  # as a page instead
        req.context.given = given
        resp.set_headers(given.made_of)
        private = self._private or req.auth is not None
        # Caches outside don't hear our purges: they may keep an answer, but must ask each time whether it holds.
        resp.set_header("Cache-Control", "private, no-cache" if private else "public, no-cache")
        resp.append_header("Vary", "Accept-Encoding")
        resp.set_header("X-Cache", level)
        if self._cdn and not private and kept.answer.status == 200:
            left_s = kept.read_at + kept.answer.ttl_s - time.monotonic()
            self._cdn.mark(resp, kept.answer.tags, level, left_s=left_s, stamp=stamp)
        matched = _matched(req.get_header("If-None-Match"), kept.answer, variant)
        if matched is None:
            if kept.answer.status != 200:
                resp.status = kept.answer.status
            resp.data = variant.body
        else:
            resp.status = 304
            resp.set_header("ETag", matched)
            for name in ("Content-Type", "Content-Encoding"):
                resp.delete_header(name)
        if req.is_warming:
            want.counts.warmed += 1
        else:
            self.count(given, kept, variant, level, is_modified=matched is None)

    def want(
        self,
        path: str,
        params: Mapping[str, str],
        template: str,
        coding: str,
        *,
        ttl_s: int,
        read: Read,
        media_type: str,
        is_shared: bool = True,
    ) -> Want:
        """Return what is asked for by a path of this template and these parameters, as the caches know it."""
        made_with = self._pages if media_type == HTML else ""
        key = Key(path, tuple(sorted(params.items())), media_type, made_with)
        return Want(
            key=key,
            coding=coding,
            ttl_s=ttl_s,
            read=scoped(template, read),
            counts=self._stats.of(template),
            is_shared=is_shared,
        )

    async def take(self, want: Want, asked: Asked) -> tuple[Given, Hit]:
        """Return what the caches hold, or what is made now, for a request in these words."""
        hit = await self._answers.get(want)
        kept, variant, _ = hit
        headers = kept.headers.get(variant.etag)
        if headers is None:
            headers = kept.headers[variant.etag] = _headers(kept.answer, variant, want.key.media_type)
        is_counted = kept.answer.status == 200 and sum(map(len, filter(None, asked))) <= _LONGEST_COUNTED
        given = Given(
            asked if is_counted else None,
            want.key,
            want.coding,
            want.counts,
            kept.answer,
            variant.etag,
            headers,
            want.is_shared,
        )
        return given, hit

    def count(self, given: Given, kept: Kept, variant: Variant, level: Level, *, is_modified: bool) -> None:
        """Count an answer to somebody."""
        if given.asked is not None:
            self._popular.count(given.asked)
        _count(given.counts, level, kept.answer, variant, is_modified=is_modified)


def _headers(answer: Answer, variant: Variant, media_type: str) -> Headers:
    """Return what is the same each time that these bytes are given out."""
    headers = {
        "ETag": variant.etag,
        "Surrogate-Key": " ".join(answer.tags),
        "Content-Type": media_type if answer.status == 200 else problems.MEDIA_TYPE,
        **answer.headers,
    }
    if answer.modified_at is not None:
        headers["Last-Modified"] = _http_date(answer.modified_at)
    if variant.coding != "identity":
        headers["Content-Encoding"] = variant.coding
    return tuple(headers.items())


@lru_cache(maxsize=256)  # the parts of a list share theirs
def _http_date(at: datetime) -> str:
    return format_datetime(at.astimezone(UTC), usegmt=True)


def _asked(req: ApiRequest) -> Asked:
    return Asked(req.path, req.raw_query, req.get_header("Accept"), req.get_header("Accept-Encoding"))


def _count(counts: Counts, level: Level, answer: Answer, variant: Variant, *, is_modified: bool) -> None:
    if level == "l1":
        counts.l1 += 1
    elif level == "l2":
        counts.l2 += 1
    elif level == "stale":
        counts.stale += 1
    else:
        counts.misses += 1
    if is_modified:
        counts.bytes += len(variant.body)
    else:
        counts.not_modified += 1
    counts.absent += answer.status == 404


def _matched(condition: str | None, answer: Answer, variant: Variant) -> str | None:
    """Return the ETag of an If-None-Match header that names this answer (weakly compared, as RFC 9110 13.1.2 says).

    That may be the one of its bytes before they were compressed well: they are as good as ever, and a 304 names them.
    """
    if condition is None or answer.status != 200:
        return None
    if condition == variant.etag:
        return condition
    if condition.strip() == "*":
        return variant.etag
    named = re.findall(r'"[^"]*"', condition)
    ours = (variant.etag, etag(answer, variant.coding), etag(answer, variant.coding, well=True))
    return next((one for one in ours if one in named), None)
