"""How names become ids and back, so that a call by id needs no memory, and which names provoke an outcome."""

import re
from base64 import b32decode, b32encode, urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotEncoded
from hashlib import blake2b

HANDLE = r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z](?:[a-z0-9-]*[a-z0-9])?"
"""What a handle looks like where it is a domain name (Bluesky)."""

_CHANNEL_BITS = 132  # 22 characters of base64
_CHANNEL_NAME = 22  # longer names don't fit, and a foreign id is taken for a name only once in 80,000
_SPARSE = 997  # a number that was made elsewhere is taken for a name only once in 997
_SCATTER = 0x9E3779B97F4A7C15F39CC0605CEDC834B  # odd, so that multiplying with it can be undone


def is_marked(name: str, outcome: str) -> bool:
    """Say whether a name provokes an outcome: `demo_missing`, `demo.missing` and `demo-missing.example` are `missing`."""
    return f"_{outcome}" in re.sub("[-.]", "_", name)


def first_name(name: str) -> str:
    """Return the name that an account began with, in lower case: its id is made from it."""
    return re.sub(r"([-_.])moved", r"\1renamed", name.lower())


def present_name(name: str) -> str:
    """Return the name that an account has today: `we_renamed` is `we_moved` when asked for by id."""
    return re.sub(r"([-_.])renamed", r"\1moved", name)


class Numbering:
    """Numbers for names over an alphabet: each name has one number from 1, each such number is one name."""

    def __init__(self, letters: str) -> None:
        self._letters = letters
        self._digits = {letter: digit for digit, letter in enumerate(letters, start=1)}

    def number(self, name: str) -> int:
        """Raises KeyError for a letter that isn't in the alphabet."""
        number = 0
        for letter in name:
            number = number * len(self._letters) + self._digits[letter]
        return number

    def name(self, number: int) -> str:
        letters = []
        while number:
            number, digit = divmod(number - 1, len(self._letters))
            letters.append(self._letters[digit])
        return "".join(reversed(letters))


WORDS = Numbering("abcdefghijklmnopqrstuvwxyz0123456789_")
DOTTED = Numbering("abcdefghijklmnopqrstuvwxyz0123456789_.-")
SHORT = Numbering("0123456789abcdefghijklmnopqrstuvwxyz")
"""Numbers in few letters (Reddit): here the letters are made from the number."""


def numeric_id(name: str) -> str:
    """Return an id of digits only. Real ones are shorter, but a name has to be read back from this one."""
    return str(DOTTED.number(name) * _SPARSE)


def name_of_number(digits: str) -> str:
    """Return the name that an id was made from, empty if it was made elsewhere."""
    number, rest = divmod(int(digits), _SPARSE)
    return "" if rest else DOTTED.name(number)


def channel_id(name: str) -> str:
    """Return a YouTube channel's id: `UC` and 22 characters. Of a long name it keeps only a hash."""
    if len(name) <= _CHANNEL_NAME and re.fullmatch(r"[a-z0-9_.-]+", name):
        number = DOTTED.number(name)
    else:
        hashed = int.from_bytes(blake2b(name.encode(), digest_size=16).digest())
        number = hashed | 1 << (_CHANNEL_BITS - 1)  # above every number of a short name
    scattered = number * _SCATTER % (1 << _CHANNEL_BITS)
    # 132 bits are 16.5 bytes: shifted to 17, their base64 has the 22 characters and a rest of no meaning.
    return "UC" + urlsafe_b64encode((scattered << 4).to_bytes(17)).decode()[:22]


def name_of_channel(external_id: str) -> str | None:
    """Return the name that a channel's id was made from, None if it was made from none that can be read back."""
    scattered = int.from_bytes(urlsafe_b64decode(external_id.removeprefix("UC") + "A=")) >> 4
    number = scattered * pow(_SCATTER, -1, 1 << _CHANNEL_BITS) % (1 << _CHANNEL_BITS)
    name = DOTTED.name(number)
    return name if 0 < len(name) <= _CHANNEL_NAME else None


def did(handle: str) -> str:
    """Return the id of a Bluesky account."""
    return "did:plc:" + b32encode(handle.encode()).decode().rstrip("=").lower()


def handle_of_did(external_id: str) -> str:
    """Return the handle of a Bluesky id; one that was made elsewhere gets a handle of its own."""
    encoded = external_id.removeprefix("did:plc:")
    try:
        handle = b32decode(encoded.upper() + "=" * (-len(encoded) % 8)).decode()
    except (NotEncoded, UnicodeDecodeError):
        handle = ""
    return handle if re.fullmatch(HANDLE, handle) else f"{encoded[:12]}.bsky.social"
