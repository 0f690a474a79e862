"""What a line of text is: a name beside others, in a list, a log, a file and a terminal. Pure."""

import re

# PostgreSQL or a terminal does something else with these than show them: control characters, but for those that end a
# line or lead to its next column.
_CONTROLS = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
# What they turn around goes on to the end of the line, so that one name passes for another (UAX 9). Marks of a direction,
# and what joins letters and emoji, are needed to write names.
_TURNING = r"\u202a-\u202e\u2066-\u2069"
# Bytes that weren't UTF-8, halves of characters, and what ends a line.
_UNREADABLE = re.compile(rf"[{_CONTROLS}\t\n\r\u2028\u2029\ud800-\udfff\ufffd]")
_TURNS = re.compile(f"[{_TURNING}]")
_NO_TEXT = re.compile(f"[{_CONTROLS}]")


def is_line(text: str) -> bool:
    """Tell whether a person may call something so."""
    return not has_unreadable(text) and not turns(text)


def has_unreadable(text: str) -> bool:
    return _UNREADABLE.search(text) is not None


def turns(text: str) -> bool:
    """Tell whether a text turns the direction of what stands behind it."""
    return _TURNS.search(text) is not None


def without_controls(text: str) -> str:
    """Return a platform's text as it said it, lines and all, but for what a terminal would obey."""
    return _NO_TEXT.sub("", text)


def as_line(text: str) -> str:
    """Return a text as it may stand beside others: on one line, in its own place."""
    return _TURNS.sub("", _NO_TEXT.sub("", " ".join(text.split())))
