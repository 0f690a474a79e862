"""Access tokens that end, as the token endpoints of Reddit and TikTok give them. Nothing is kept per token."""

from hashlib import blake2b
from time import time_ns

_NS_PER_S = 1_000_000_000


class Tokens:
    """Tokens say themselves whose they are and how long they last; a seal shows that they were given here."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.reset()

    def reset(self) -> None:
        """Forget every order; tokens that were given go on."""
        self._ended_ns: dict[str, int] = {}
        self._lasts_s: dict[str, int] = {}

    def give(self, platform: str, client: str, *, lasts_s: int) -> tuple[str, int]:
        """Return a new token for a client, and the seconds that it lasts: those of an order, else `lasts_s`."""
        lasts_s = self._lasts_s.get(platform, lasts_s)
        given_ns = time_ns()
        text = f"{client.encode().hex()}.{given_ns}.{given_ns + lasts_s * _NS_PER_S}"
        return f"{text}.{self._seal(platform, text)}", lasts_s

    def client(self, platform: str, token: str) -> str | None:
        """Return the client that a token was given to, None if it has ended or was given nowhere here."""
        text, _, seal = token.rpartition(".")
        if seal != self._seal(platform, text):
            return None
        client, given_ns, ends_ns = text.split(".")
        has_ended = int(given_ns) <= self._ended_ns.get(platform, 0) or int(ends_ns) <= time_ns()
        return None if has_ended else bytes.fromhex(client).decode()

    def end(self, platform: str, *, lasts_s: int | None) -> None:
        """End every token of a platform; where `lasts_s` is said, its next ones last so long."""
        self._ended_ns[platform] = time_ns()
        if lasts_s is not None:
            self._lasts_s[platform] = lasts_s

    def _seal(self, platform: str, text: str) -> str:
        return blake2b(f"{self._seed}/{platform}/{text}".encode(), digest_size=12).hexdigest()
