"""The names of cache tags, and which of them a change touches. Pure.

An answer carries the tags of what it shows; whoever changes that purges them after the commit.
"""

from collections.abc import Iterable

SUMMARY = "summary"
ACCOUNTS = "accounts"
JOBS = "jobs"


def account(account_key: int) -> str:
    return f"account:{account_key}"


def platform(name: str) -> str:
    return f"platform:{name}"


def of_job(platform_name: str, account_keys: Iterable[int]) -> frozenset[str]:
    """Return what a finished job touches: its accounts, their platform, and every list that shows them."""
    return frozenset({SUMMARY, ACCOUNTS, JOBS, platform(platform_name), *map(account, account_keys)})
