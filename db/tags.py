"""The names of cache tags, and which of them a change touches. Pure.

An answer carries the tags of what it shows; whoever changes that purges them after the commit.
"""

from collections.abc import Iterable

SUMMARY = "summary"
ACCOUNTS = "accounts"
JOBS = "jobs"
GRID = "grid"
ANNOTATIONS = "annotations"
"""Every history shows the annotations of all, and those of its organisation."""
ALERTS = "alerts"
NAMES = "names"
"""Which names there are: what says that there is no such account ends when one is added or gets another name."""
EVERYTHING = "*"
"""Every answer bears it unsaid."""


def account(account_key: int) -> str:
    return f"account:{account_key}"


def platform(name: str) -> str:
    return f"platform:{name}"


def standing(platform_name: str) -> str:
    """What is said of all accounts of a platform at once: nothing reads them, or a credential is missing."""
    return f"standing:{platform_name}"


def is_aggregate(tag: str) -> bool:
    """Tell whether what bears this tag shows many accounts: during a sweep, each batch of readings purges it."""
    return tag in (SUMMARY, ACCOUNTS, JOBS, GRID) or tag.startswith(("platform:", "org:"))


def key(key_id: str) -> str:
    """A key of the API: no answer shows it, but whoever remembers it must hear that it ends."""
    return f"key:{key_id}"


def of_facts(account_keys: Iterable[int]) -> frozenset[str]:
    """Return what changes with what the list says of accounts: they themselves, and every list that shows them."""
    return frozenset({SUMMARY, ACCOUNTS, GRID, *map(account, account_keys)})


def of_annotation(account_key: int | None) -> frozenset[str]:
    """Return what a note changes: one account's history, or, where it is of no single account, all."""
    return frozenset({ANNOTATIONS if account_key is None else account(account_key)})


def of_history(platforms: Iterable[str], account_keys: Iterable[int]) -> frozenset[str]:
    """Return what changes with the numbers of past days: the accounts, their platforms, and the lists of numbers."""
    return frozenset({SUMMARY, GRID, *map(platform, platforms), *map(account, account_keys)})


def of_job(platform_name: str, account_keys: Iterable[int]) -> frozenset[str]:
    """Return what a finished job touches: its accounts, their platform, and every list that shows them."""
    return frozenset({SUMMARY, GRID, ACCOUNTS, JOBS, platform(platform_name), *map(account, account_keys)})
