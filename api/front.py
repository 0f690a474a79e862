"""The short way of a hit: what was asked in the same words before is answered from the caches, before Falcon hears of it.

A server may even have it remember a request's bytes, so that they needn't be parsed when they come again. What an answer's headers are is learned from the long way, through all middleware, each time that memory holds a new
answer. Whoever can't pass without waiting for a database, and whatever isn't quite the same, goes the long way.

A list is asked for in ever new words, but all that its query decides are the answer's bytes and their own headers. So
where a list was asked before, the front has answers made, too; what goes wrong then is told on the long way.
"""

import re
import time
from collections.abc import Sequence
from typing import Any

import structlog
from falcon.asgi import Response
from msgspec import Struct, structs

from api import encodings
from api.cache.answers import Answers, Hit
from api.cache.entries import Answer, Headers, Kept, Level, Variant
from api.cache.popular import Asked
from api.cached import Cached, Given
from api.client import Proxies
from api.closing import Closed, ClosingLines
from api.counting import Counting
from api.deadline import within
from api.lists import ListResource
from api.middleware import Admitted, Callers
from api.operations import Operation, operation_of
from api.problems import Problem
from api.request import ApiRequest, Met, id_from
from api.schemas import parameters
from pipeline import tracing
from pipeline.trail import is_id

Pairs = Sequence[tuple[bytes, bytes]]
# All of a request that its answer depends on, as it came: path, query, Accept, Accept-Encoding, Origin; whether the
# client came by https, and whether it says who it is.
Words = tuple[str, bytes, bytes | None, bytes | None, bytes | None, bool, bool]

# So many requests are known, and none that is longer.
_MOST_KNOWN = 5_000
_LONGEST_KNOWN = 1_000
_MOST_PLACES = 1_000
# And so many by their very bytes, which tell one client from another.
_MOST_HEADS = 2_000
# A request with a query that says itself what it says: no fragment, and nothing that a target may not hold (RFC 3986 3.4).
_LINE = re.compile(rb"GET (/[^? ]*)\?([\w.~%!$&'()*+,;=:@/?-]{0,1000}) HTTP/1\.1\r\n")
_ID_LINE = b"\r\nX-Request-ID: "
# Of each request alone, and so never learned; but for the length, which follows from the bytes.
_OWN = (
    "content-length",
    "x-cache",
    "x-request-id",
    "ratelimit-policy",
    "ratelimit-limit",
    "ratelimit-remaining",
    "ratelimit-reset",
)
# What a header may hold (RFC 9110 5.5): who sends it unseen must not be able to end it.
_VALUE = re.compile(r"[\t -~\x80-\xff]*")


class Head(Struct, frozen=True):
    """The headers that an answer has each time, as HTTP/1.1 has them.

    `made_of` are those of its bytes: with others it's another answer.
    """

    answer: Answer
    etag: str
    made_of: Headers
    raw: bytes


class Place(Struct, frozen=True):
    """A list, as who asks for it by words that differ in the query alone. `raw` are headers that all its answers have."""

    resource: ListResource[Any]
    operation: Operation
    template: str
    ttl_s: int
    raw: bytes


class Known(Struct):
    """A request that came before, and what it was answered with: `whole`, and `unmodified` as a 304 has it."""

    given: Given
    operation: Operation
    template: str
    place: Place | None
    whole: Head | None = None
    unmodified: Head | None = None


class Question(Struct, frozen=True):
    """What the front looks at in a request that is known, or for a place that is.

    It's the same for the same bytes from a peer that is trusted as far. One that `has_secrets` bears a key or a cookie.
    """

    words: Words
    known: Known | None
    place: Place | None
    method: str
    condition: bytes | None
    authorization: str | None
    forwarded: str
    request_id: bytes | None
    has_secrets: bool

    @property
    def head(self) -> Head | None:
        """Return the headers that its answer had the last time; None if it hasn't had any yet."""
        if self.known is None:
            return None
        return self.known.whole if self.condition is None else self.known.unmodified

    @property
    def asked(self) -> Asked:
        path, query, accept, coding, *_ = self.words
        return Asked(path, query, _text(accept), _text(coding))


class Ready(Struct, frozen=True):
    """An answer to be sent as it is: `own` are the headers of this request alone."""

    status: int
    head: Head
    own: Sequence[tuple[str, str]]
    body: bytes

    @property
    def headers(self) -> Pairs:
        lines = (line.partition(b": ") for line in self.lines.split(b"\r\n")[:-1])
        return [(name, value) for name, _, value in lines]

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
        *,
        timeout_s: float,
    ) -> None:
        self._answers = answers
        self._cached = cached
        self._callers = callers
        self._counting = counting
        self._lines = lines
        self._proxies = proxies
        self._timeout_s = timeout_s
        self._known: dict[Words, Known] = {}
        self._places: dict[Words, Place] = {}
        # By their bytes: those of peers that aren't trusted, and of trusted ones.
        self._heads: tuple[dict[bytes, Question], dict[bytes, Question]] = ({}, {})
        # The same for lists, by all of their bytes but the query's.
        self._lists: tuple[dict[bytes, Question], dict[bytes, Question]] = ({}, {})

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
        words = self._words(path, query, by_name, peer)
        known = self._known.get(words)
        place = known.place if known else self._places.get(_but_query(words))
        if known is None and place is None:
            return None
        authorization = by_name.get(b"authorization")
        return Question(
            words,
            known,
            place,
            method,
            by_name.get(b"if-none-match"),
            None if authorization is None else authorization.decode("latin-1"),
            by_name.get(b"x-forwarded-for", b"").decode("latin-1"),
            by_name.get(b"x-request-id"),
            authorization is not None or b"cookie" in by_name,
        )

    async def answer(self, question: Question, peer: str, began: float) -> Ready | Met | None:
        """Return the same as `give`, or what the second level has of it, or what is made now; or what went wrong then."""
        ready = self.give(question, peer, began)
        if ready is None and question.known and question.head and question.known.given.is_shared:
            given = question.known.given
            hit = await self._answers.fetch(given.key, given.coding, given.counts)
            ready = self._ready(question, question.known, hit, peer, began)
        if ready is None and question.place and question.condition is None and not tracing.is_on():
            return await self._made(question, question.place, peer, began)
        return ready

    def give(self, question: Question, peer: str, began: float) -> Ready | None:
        """Return what is at hand for a request that `began` then (time.perf_counter), and count and log it; or None."""
        known = question.known
        if known is None:
            return None
        return self._ready(question, known, self._answers.hit(known.given.key, known.given.coding), peer, began)

    def _ready(self, question: Question, known: Known, hit: Hit | None, peer: str, began: float) -> Ready | None:
        head = question.head
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
        admitted = self._callers.admit(question.authorization, known.operation, peer, question.forwarded)
        if admitted is None:
            return None
        self._cached.count(known.given, kept, variant, level, is_modified=status != 304)
        own = self._tell(question, known.template, status, level, admitted, id_from(question.request_id), began)
        return Ready(status, head, own, b"" if question.method == "HEAD" else body)

    async def _made(self, question: Question, place: Place, peer: str, began: float) -> Ready | Met | None:
        """Have an answer made, unless a cache holds it after all."""
        asked = question.asked
        try:
            params = parameters(asked.query)
            how = place.resource.reading(asked.path, params, {}, asked.accept or "*/*")
        except Problem:  # who may not ask at all mustn't be told of it: the long way knows
            return None
        admitted = self._callers.admit(question.authorization, place.operation, peer, question.forwarded)
        if admitted is None:
            return None
        request_id = id_from(question.request_id)
        coding = encodings.negotiate(asked.accept_encoding)
        want = self._cached.want(asked.path, params, place.template, coding, ttl_s=place.ttl_s, **how._asdict())
        try:
            with structlog.contextvars.bound_contextvars(request_id=request_id):
                given, hit = await within(self._cached.take(want, asked), self._timeout_s)
        except Exception as exc:  # noqa: BLE001  # whatever it is, the long way has to say it, and counts the request
            self._callers.take_back(admitted, peer, question.forwarded)
            return Met(exc, began)
        kept, variant, level = hit
        its_own = _raw((*given.made_of, ("content-length", str(len(variant.body)))))
        if its_own is None:
            self._callers.take_back(admitted, peer, question.forwarded)
            return None
        head = Head(given.answer, given.etag, given.made_of, place.raw + its_own)
        if level != "miss":  # most of what is asked once isn't asked again
            self._know(question.words, given, place.operation, place.template, place).whole = head
        status = kept.answer.status
        self._cached.count(given, kept, variant, level, is_modified=True)
        own = self._tell(question, place.template, status, level, admitted, request_id, began)
        return Ready(status, head, own, b"" if question.method == "HEAD" else variant.body)

    def _tell(
        self,
        question: Question,
        template: str,
        status: int,
        level: Level,
        admitted: Admitted,
        request_id: str,
        began: float,
    ) -> Sequence[tuple[str, str]]:
        """Count and log a request that ends now; return the headers of its answer that are of this request alone."""
        ended = time.perf_counter()
        took_s = ended - began
        self._counting.count(template, status, took_s)
        self._lines.write(
            Closed(
                ended, took_s, request_id, question.method, question.words[0], template, status, level, admitted.key
            )
        )
        return (("x-cache", level), ("x-request-id", request_id), *admitted.limits)

    def remember(self, raw: bytes, peer: str, question: Question) -> None:
        """Remember the bytes of a whole request as the question that they are, unless a key or a cookie is among them.

        Where it's one for a list, what stands around its query is remembered.
        """
        key, request_id = _without_id(raw)
        if request_id != question.request_id or question.has_secrets or len(raw) > _LONGEST_KNOWN:
            return
        line = _LINE.match(key)
        if question.known:
            _put(self._heads[self._proxies.trusts(peer)], key, question)
        if question.place and question.method == "GET" and line and line[2] == question.words[1]:
            _put(self._lists[self._proxies.trusts(peer)], _around(key, line), question)

    def recall(self, raw: bytes, peer: str) -> Question | None:
        """Return the question that a request's bytes are, if they, or all but its query, were remembered."""
        key, request_id = _without_id(raw)
        trusts = self._proxies.trusts(peer)
        question = self._heads[trusts].get(key)
        if question is None and (line := _LINE.match(key)):
            around = self._lists[trusts].get(_around(key, line))
            if around is not None:
                words = (around.words[0], line[2], *around.words[2:])
                question = structs.replace(around, words=words, known=self._known.get(words))
        if question is None or request_id is None:
            return question
        return structs.replace(question, request_id=request_id)

    async def process_response(self, req: ApiRequest, resp: Response, resource: object, succeeded: bool) -> None:
        """Learn how a request is answered."""
        given: Given | None = getattr(req.context, "given", None)
        operation = operation_of(resource, req.method)
        if given is None or operation is None or not succeeded or req.is_warming:
            return
        headers = req.scope["headers"]
        by_name = dict(headers)
        words = self._words(req.scope["path"], req.raw_query, by_name, req.remote_addr)
        # Several headers of one name are one to Falcon.
        if len(by_name) < len(headers) or sum(len(word or b"") for word in words[:5]) > _LONGEST_KNOWN:
            return
        template = str(req.uri_template)
        if isinstance(resource, ListResource) and "{" not in template and resp.status_code == 200:
            self._learn_place(words, given, operation, template, resource, resp)
        if resp.get_header("X-Cache") == "miss":  # most of what is asked once isn't asked again
            return
        known = self._know(words, given, operation, template, self._places.get(_but_query(words)))
        if resp.status_code == 304:
            if resp.get_header("ETag") == given.etag:
                known.unmodified = _head(given, _headers(resp))
        elif resp.status_code == given.answer.status:
            length = ("content-length", str(len(resp.data or b"")))
            known.whole = _head(given, [*_headers(resp), length])

    def _learn_place(
        self,
        words: Words,
        given: Given,
        operation: Operation,
        template: str,
        resource: ListResource[Any],
        resp: Response,
    ) -> None:
        place = _but_query(words)
        if place in self._places or resource.ttl_s is None:
            return
        its_own = {name.lower() for name, _ in given.made_of}
        raw = _raw([(name, value) for name, value in _headers(resp) if name not in its_own])
        if raw is None:
            return
        if len(self._places) >= _MOST_PLACES:
            self._places.clear()
        self._places[place] = Place(resource, operation, template, resource.ttl_s, raw)

    def _know(self, words: Words, given: Given, operation: Operation, template: str, place: Place | None) -> Known:
        known = self._known.get(words)
        if known is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            known = self._known[words] = Known(given, operation, template, place)
        return known

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


def _put(heads: dict[bytes, Question], key: bytes, question: Question) -> None:
    if len(heads) >= _MOST_HEADS:
        heads.clear()
    heads[key] = structs.replace(question, request_id=None)


def _around(raw: bytes, line: re.Match[bytes]) -> bytes:
    """Return a request's bytes without its query."""
    return raw[: line.start(2)] + raw[line.end(2) :]


def _but_query(words: Words) -> Words:
    path, _, *others = words
    return (path, b"", *others)  # type: ignore[return-value]  # they are as many


def _text(word: bytes | None) -> str | None:
    return None if word is None else word.decode("latin-1")


def _headers(resp: Response) -> list[tuple[str, str]]:
    """Return the headers of an answer that aren't of its request alone."""
    return [(name, value) for name, value in resp.headers.items() if name not in _OWN]


def _head(given: Given, headers: Sequence[tuple[str, str]]) -> Head | None:
    raw = _raw(headers)
    return None if raw is None else Head(given.answer, given.etag, given.made_of, raw)


def _raw(headers: Sequence[tuple[str, str]]) -> bytes | None:
    """Return headers as HTTP/1.1 has them; None where one is none."""
    if not _VALUE.fullmatch("".join([value for _, value in headers])):
        return None
    return "".join([f"{name.lower()}: {value}\r\n" for name, value in headers]).encode("latin-1")
