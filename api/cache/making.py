"""Answers from contents: their bytes by encoding, each with an ETag. What takes milliseconds runs in a thread."""

import hashlib

from msgspec import structs

from api import encodings
from api.cache.entries import Answer, Content, Key, Variant

# Smaller bodies hardly get smaller.
_WORTH_BYTES = 1_000


def answer_of(key: Key, content: Content, ttl_s: float) -> Answer:
    return Answer(
        digest=key.digest,
        content=_content(content),
        status=content.status,
        tags=tuple(sorted(content.tags)),
        modified_at=content.modified_at,
        ttl_s=ttl_s if content.kept_s is None else min(ttl_s, content.kept_s),
        headers=content.headers,
        account=content.account,
    )


def _content(content: Content) -> str:
    """Return what equal answers have in common: bodies, and headers, in which a list may say that it goes on."""
    digest = hashlib.sha256(content.body)
    for name, value in sorted(content.headers.items()):
        digest.update(f"\n{name}: {value}".encode())
    return digest.hexdigest()[:32]


def variant_of(answer: Answer, body: bytes, coding: str) -> Variant:
    """Compress a body while someone waits for it."""
    is_best = coding == "identity" or len(body) < _WORTH_BYTES
    return Variant(coding, etag(answer, coding), encodings.compress(body, coding), is_best)


def etag(answer: Answer, coding: str, *, well: bool = False) -> str:
    """Name the bytes: those compressed well are others, so that the ETag stays strong."""
    return f'"{answer.content}-{coding}{"-best" if well else ""}"'


def recoded(answer: Answer, variant: Variant, coding: str) -> Variant:
    """Return the same body in another encoding."""
    return variant_of(answer, encodings.decompress(variant.body, variant.coding), coding)


def improved(answer: Answer, variant: Variant) -> Variant:
    """Return the same body better compressed, if it can be."""
    body = encodings.decompress(variant.body, variant.coding)
    better = encodings.compress(body, variant.coding, well=True)
    if len(better) >= len(variant.body):
        return structs.replace(variant, is_best=True)
    return Variant(variant.coding, etag(answer, variant.coding, well=True), better, is_best=True)
