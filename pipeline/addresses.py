"""How people name accounts: an address, or a platform and a handle, in any spelling. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import parse_qs, quote, unquote, urlsplit

from msgspec import Struct
from rapidfuzz import fuzz, process

from db.accounts import Sought
from pipeline.platforms import Platform

Platforms = Mapping[str, Platform]

_ALIASES = {"twitter": "x"}
# Characters of a text that a message quotes.
_QUOTED = 80
_HOST = re.compile(r"[\w-]+(\.[\w-]+)+")


class Unclear(ValueError):
    """The text names no account; `str()` says why, or how to write it."""


class Named(Sought, frozen=True, kw_only=True):
    """An account as someone named it. `url` is its address, cleaned, to keep and to link to."""

    url: str


class _Address(Struct, frozen=True):
    """An address taken apart: host as written in lower case, path decoded, without query and fragment."""

    host: str
    path: str
    id: str | None

    def texts(self, host: str) -> Iterator[str]:
        """Yield what a UrlRule is matched against: `host/path?id=N` before `host/path`."""
        if self.id:
            yield f"{host}{self.path}?id={self.id}"
        yield f"{host}{self.path}"


def of_text(text: str, platforms: Platforms) -> Named:
    """Read `x/name`, `mastodon/name@host` or a URL. Raises Unclear."""
    first, slash, rest = text.strip().partition("/")
    if slash and first.casefold() in platforms:
        return of_handle(platforms[first.casefold()], rest)
    if not slash and "." not in text:
        raise Unclear(f"{_quoted(text)} names no platform: write x/name, mastodon/name@host or a URL")
    return of_url(text, platforms)


def of_handle(platform: Platform, handle: str) -> Named:
    """Read a bare handle, with or without `@`; `name@host` where the platform is many servers. Raises Unclear."""
    name, host = handle.strip().removeprefix("@"), ""
    if _is_many_servers(platform):
        name, _, host = name.partition("@")
        host = host.lower()
        if not _HOST.fullmatch(host):
            raise Unclear(f"{platform.title} is many servers: write the handle as name@server")
    if not re.fullmatch(platform.handle_pattern, name, re.IGNORECASE):
        raise Unclear(f"{_quoted(name)} is not a handle that {platform.title} gives out")
    # Its address says the rest: whether the name is an id, or one that the platform keeps for itself.
    return of_url(platform.profile_url(name, host), {platform.name: platform})


def of_url(url: str, platforms: Platforms) -> Named:
    """Find the platform and account that an address names. Raises Unclear."""
    address = _take_apart(url)
    # A platform that is many servers takes any host, so it comes last and sees the host unshortened: `m.` may
    # be part of a server's name, while elsewhere it is the mobile site.
    whole = address.host.removeprefix("www.")
    short = re.sub(r"^(m|mobile)\.", "", whole)
    for platform in sorted(platforms.values(), key=_is_many_servers):
        host = whole if _is_many_servers(platform) else short
        for text in address.texts(host):
            for rule in platform.urls:
                if match := rule.match(text):
                    if rule.refuse:
                        raise Unclear(rule.refuse)
                    return _named(platform, match.groupdict(), text)
    raise Unclear(
        f"{_quoted(url)} is not the address of an account on {', '.join(p.title for p in platforms.values())}"
    )


def platform_called(title: str, platforms: Platforms) -> Platform:
    """Find a platform by name or title in any spelling, also with more words behind it (`Facebook Español`).

    Raises Unclear.
    """
    called = {_squeezed(p.title): p for p in platforms.values()} | dict(platforms)
    words = re.findall(r"\w+", title.casefold())
    for length in range(len(words), 0, -1):
        name = "".join(words[:length])
        if found := called.get(_ALIASES.get(name, name)):
            return found
    raise Unclear(f"{_quoted(title)} is not a platform; known are {', '.join(p.title for p in platforms.values())}")


def _named(platform: Platform, groups: Mapping[str, str | None], text: str) -> Named:
    external_id = groups.get("id")
    handle = groups.get("handle") or external_id
    assert handle is not None, "a rule names a handle or an id"
    host = (groups.get("host") or "").lower()
    return Named(platform.name, handle, host, external_id, url="https://" + quote(text, safe="/@:?=+,~"))


def _take_apart(url: str) -> _Address:
    written = url.strip()
    if "://" not in written:
        written = "https://" + written.lstrip("/")
    try:
        parts = urlsplit(written)
        port = parts.port
    except ValueError as exc:
        raise Unclear(f"{_quoted(url)} is not a web address") from exc
    host = (parts.hostname or "").rstrip(".")
    if parts.scheme.lower() not in ("http", "https") or parts.username is not None or not _HOST.fullmatch(host):
        raise Unclear(f"{_quoted(url)} is not a web address")
    if port not in (None, 80, 443):
        host += f":{port}"
    path = re.sub(r"/+", "/", unquote(parts.path)).rstrip("/")
    if not path.isprintable() or "\ufffd" in path:
        raise Unclear(f"{_quoted(url)} holds unreadable characters")
    return _Address(host, path, parse_qs(parts.query).get("id", [None])[0])


def _quoted(text: str) -> str:
    """Return what someone wrote as a message quotes it: of a line of garbage, its beginning."""
    return repr(text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…")


def _is_many_servers(platform: Platform) -> bool:
    return "{host}" in platform.base_url


def _squeezed(title: str) -> str:
    return "".join(re.findall(r"\w+", title.casefold()))


def nearest(name: str, names: Sequence[str]) -> list[str]:
    """Return up to three names that `name` may have been meant as, the likeliest first."""
    near = process.extract(name, names, scorer=fuzz.WRatio, processor=str.casefold, score_cutoff=70, limit=3)
    return [found for found, _, _ in near]


def meant(name: str, known: Sequence[str]) -> str:
    """Return a sentence that offers the names that may have been meant, empty where none comes near."""
    near = nearest(name, known)
    return f" Did you mean {' or '.join(near)}?" if near else ""
