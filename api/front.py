"""The short way of a hit: what was asked in the same words before is answered from the caches, before Falcon hears of it.

A server may even have it remember a request's bytes, so that they needn't be parsed when they come again. What an answer's headers are is learned from the long way, through all middleware, each time that memory holds a new
answer. Whoever can't pass without waiting for a database, and whatever isn't quite the same, goes the long way.
"""

import re
import time
from collections.abc import Sequence
from typing import Any

from falcon.asgi import Response
from msgspec import Struct, structs

from api.cache.answers import Answers, Hit
from api.cache.entries import Answer, Headers, Kept, Variant
from api.cached import Cached, Given
from api.client import Proxies
from api.closing import Closed, ClosingLines
from api.counting import Counting
from api.middleware import Callers
from api.operations import Operation, operation_of
from api.request import ApiRequest, id_from
from pipeline.trail import is_id

Pairs = Sequence[tuple[bytes, bytes]]
# All of a request that its answer depends on, as it came: path, query, Accept, Accept-Encoding, Origin; whether the
# client came by https, and whether it says who it is.
Words = tuple[str, bytes, bytes | None, bytes | None, bytes | None, bool, bool]

# So many requests are known, and none that is longer.
_MOST_KNOWN = 5_000
_LONGEST_KNOWN = 1_000
# And so many by their very bytes, which tell one client from another.
_MOST_HEADS = 2_000
_ID_LINE = b"\r\nX-Request-ID: "
# Of each request alone, and so never learned.
_OWN = ("x-cache", "x-request-id", "ratelimit-policy", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset")
# What a header may hold (RFC 9110 5.5): who sends it unseen must not be able to end it.
_VALUE = re.compile(rb"[\t -~\x80-\xff]*")


class Head(Struct, frozen=True):
    """The headers that an answer has each time. `made_of` are those of its bytes: with others it's another answer."""

    answer: Answer
    etag: str
    made_of: Headers
    pairs: Pairs
    raw: bytes


class Known(Struct):
    """A request that came before, and what it was answered with: `whole`, and `unmodified` as a 304 has it."""

    given: Given
    operation: Operation
    template: str
    whole: Head | None = None
    unmodified: Head | None = None


class Question(Struct, frozen=True):
    """What the front looks at in a known request: the same for the same bytes from a peer that is trusted as far.

    One that `has_secrets` bears a key or a cookie.
    """

    known: Known
    method: str
    path: str
    condition: bytes | None
    authorization: str | None
    forwarded: str
    request_id: bytes | None
    has_secrets: bool

    @property
    def head(self) -> Head | None:
        """Return the headers that its answer had the last time; None if it hasn't had any yet."""
        return self.known.whole if self.condition is None else self.known.unmodified


class Ready(Struct, frozen=True):
    """An answer to be sent as it is: `own` are the headers of this request alone."""

    status: int
    head: Head
    own: Sequence[tuple[str, str]]
    body: bytes

    @property
    def headers(self) -> Pairs:
        return [*self.head.pairs, *((name.encode(), value.encode()) for name, value in self.own)]

    @property
    def lines(self) -> bytes:
        """Return the headers as HTTP/1.1 has them."""
        return self.head.raw + "".join([f"{name}: {value}\r\n" for name, value in self.own]).encode()


class Front:
    """Stands before Falcon, and as its outermost middleware learns from it."""

    def __init__(
        self,
        answers: Answers,
        cached: Cached,
        callers: Callers,
        counting: Counting,
        lines: ClosingLines,
        proxies: Proxies,
    ) -> None:
        self._answers = answers
        self._cached = cached
        self._callers = callers
        self._counting = counting
        self._lines = lines
        self._proxies = proxies
        self._known: dict[Words, Known] = {}
        # By their bytes: those of peers that aren't trusted, and of trusted ones.
        self._heads: tuple[dict[bytes, Question], dict[bytes, Question]] = ({}, {})

    def understand(self, method: str, path: str, query: bytes, headers: Pairs, peer: str) -> Question | None:
        """Return what a request asks for; None if that isn't known."""
        if method not in ("GET", "HEAD"):
            return None
        by_name = dict(headers)
        if (
            len(by_name) < len(headers)
            or by_name.get(b"content-length", b"0") != b"0"
            or b"transfer-encoding" in by_name
        ):
            return None
        known = self._known.get(self._words(path, query, by_name, peer))
        if known is None:
            return None
        authorization = by_name.get(b"authorization")
        return Question(
            known,
            method,
            path,
            by_name.get(b"if-none-match"),
            None if authorization is None else authorization.decode("latin-1"),
            by_name.get(b"x-forwarded-for", b"").decode("latin-1"),
            by_name.get(b"x-request-id"),
            authorization is not None or b"cookie" in by_name,
        )

    async def answer(self, question: Question, peer: str, began: float) -> Ready | None:
        """Return the same as `give`, or what the second level has of it, if that is known as well."""
        ready = self.give(question, peer, began)
        given = question.known.given
        if ready or question.head is None:
            return ready
        hit = await self._answers.fetch(given.key, given.coding, given.counts)
        return self._ready(question, hit, peer, began)

    def give(self, question: Question, peer: str, began: float) -> Ready | None:
        """Return what is at hand for a request that `began` then (time.perf_counter), and count and log it; or None."""
        given = question.known.given
        return self._ready(question, self._answers.hit(given.key, given.coding), peer, began)

    def _ready(self, question: Question, hit: Hit | None, peer: str, began: float) -> Ready | None:
        known, head = question.known, question.head
        if hit is None or head is None:
            return None
        kept, variant, level = hit
        if question.condition is None:
            status, body = kept.answer.status, variant.body
        elif question.condition == variant.etag.encode() and kept.answer.status == 200:
            status, body = 304, b""
        else:
            return None
        if not _is_head_of(head, kept, variant):
            return None
        admitted = self._callers.admit(
            question.authorization,
            known.operation,
            lambda: self._proxies.address_from(peer, question.forwarded),
        )
        if admitted is None:
            return None
        key, limits = admitted
        request_id = id_from(question.request_id)
        self._cached.count(known.given, kept, variant, level, is_modified=status != 304)
        ended = time.perf_counter()
        self._counting.count(known.template, status, ended - began)
        took_s, template = ended - began, known.template
        self._lines.write(
            Closed(ended, took_s, request_id, question.method, question.path, template, status, level, key)
        )
        own = (("x-cache", level), ("x-request-id", request_id), *limits)
        return Ready(status, head, own, b"" if question.method == "HEAD" else body)

    def remember(self, raw: bytes, peer: str, question: Question) -> None:
        """Remember the bytes of a whole request as the question that they are, unless a key or a cookie is among them."""
        key, request_id = _without_id(raw)
        if request_id == question.request_id and not question.has_secrets and len(raw) <= _LONGEST_KNOWN:
            heads = self._heads[self._proxies.trusts(peer)]
            if len(heads) >= _MOST_HEADS:
                heads.clear()
            heads[key] = structs.replace(question, request_id=None)

    def recall(self, raw: bytes, peer: str) -> Question | None:
        """Return the question that a request's bytes are, if they were remembered."""
        key, request_id = _without_id(raw)
        question = self._heads[self._proxies.trusts(peer)].get(key)
        if question is None or request_id is None:
            return question
        return structs.replace(question, request_id=request_id)

    async def process_response(self, req: ApiRequest, resp: Response, resource: object, succeeded: bool) -> None:
        """Learn how a request is answered."""
        given: Given | None = getattr(req.context, "given", None)
        operation = operation_of(resource, req.method)
        if given is None or operation is None or not succeeded or req.is_warming:
            return
        if resp.get_header("X-Cache") == "miss":  # most of what is asked once isn't asked again
            return
        headers = req.scope["headers"]
        by_name = dict(headers)
        words = self._words(req.scope["path"], req.raw_query, by_name, req.remote_addr)
        # Several headers of one name are one to Falcon.
        if len(by_name) < len(headers) or sum(len(word or b"") for word in words[:5]) > _LONGEST_KNOWN:
            return
        known = self._known.get(words)
        if known is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            known = self._known[words] = Known(given, operation, str(req.uri_template))
        if resp.status_code == 304:
            if resp.get_header("ETag") == given.etag:
                known.unmodified = _head(resp, given)
        elif resp.status_code == given.answer.status:
            known.whole = _head(resp, given, length=len(resp.data or b""))

    def _words(self, path: str, query: bytes, headers: dict[bytes, bytes], peer: str) -> Words:
        get = headers.get
        proto = get(b"x-forwarded-proto")
        return (
            path,
            query,
            get(b"accept"),
            get(b"accept-encoding"),
            get(b"origin"),
            proto is not None and self._proxies.is_https_from(peer, proto.decode("latin-1")),
            b"authorization" in headers,
        )


def _is_head_of(head: Head, kept: Kept, variant: Variant) -> bool:
    made_of = kept.headers.get(variant.etag)
    if made_of is None and head.etag == variant.etag and head.answer == kept.answer:
        made_of = kept.headers[variant.etag] = head.made_of  # it came from the second level, and was known before
    return made_of is head.made_of


async def send(ready: Ready, send: Any) -> None:
    """Send an answer as ASGI has it."""
    await send({"type": "http.response.start", "status": ready.status, "headers": ready.headers})
    await send({"type": "http.response.body", "body": ready.body})


def _without_id(raw: bytes) -> tuple[bytes, bytes | None]:
    """Return a request's bytes without the value of X-Request-ID, and that, if it stands there as nginx writes it.

    A value that is none is left where it is: so it is parsed, each time.
    """
    before, name, rest = raw.partition(_ID_LINE)
    if not name:
        return raw, None
    request_id, end, after = rest.partition(b"\r\n")
    return (before + name + end + after, request_id) if is_id(request_id.decode("latin-1")) else (raw, None)


def _head(resp: Response, given: Given, *, length: int | None = None) -> Head | None:
    """Return the headers of an answer that are the same each time; None where one is none."""
    named = {name: value for name, value in resp.headers.items() if name not in _OWN}
    if length is not None:
        named["content-length"] = str(length)
    pairs = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in named.items())
    if not all(_VALUE.fullmatch(value) for _, value in pairs):
        return None
    raw = b"".join([part for name, value in pairs for part in (name, b": ", value, b"\r\n")])
    return Head(given.answer, given.etag, given.made_of, pairs, raw)
