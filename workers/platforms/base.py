"""What platforms have in common: the declarations most of them leave empty, and one outcome per account."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

from pipeline.errors import BadPage, Gone, ScrapeError, Transient
from pipeline.platforms import Call, Client, Meanings, NotOffered, Platform, Quota, Token
from pipeline.records import Account, Kind, Missing, Page, Post, Profile

# A host name with a dot in it, in lower case.
DOMAIN = r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]"

PostType = Literal["post", "reply", "quote", "image", "video", "live"]
"""What `Post.post_type` may say. What answers or quotes another post is called so, whatever else it shows."""


class Base(Platform):
    """A platform without a reader, credentials or error shapes of its own; subclasses say what they have."""

    not_offered = NotOffered()
    meanings = Meanings()
    post_lacks: tuple[str, ...] = ()
    calls: Mapping[Kind, Call] = {}
    quota: Quota | None = None
    needs: tuple[str, ...] = ()
    instead: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    token_url: str | None = None

    def headers(self, http: Client) -> Mapping[str, str]:
        return {}

    def fetch_token(self, post: Callable[..., Page], http: Client) -> Token:
        raise NotImplementedError(f"{self.name} gives no tokens")  # only asked by a platform's own `headers`

    def explain(self, page: Page) -> ScrapeError | None:
        return None

    def get_batch(self, http: Client, path: str, params: Sequence[tuple[str, str]]) -> Page:
        """Ask for many accounts. A 404 means that there is no such call, not that all of them are gone."""
        page = http.get(path, params, expect=(200, 404))
        if page.status == 404:
            raise BadPage(self.name, "status 404")
        return page

    def one_by_one(
        self, accounts: Sequence[Account], read: Callable[[Account], Profile | Missing]
    ) -> Iterator[Profile | Missing]:
        """Read each account's part of a page: a part that isn't as documented is its own account's failure only."""
        for account in accounts:
            try:
                yield read(account)
            except BadPage as exc:
                yield Missing(account_key=account.account_key, result="failed", reason=exc.reason)

    def possible(self, accounts: Sequence[Account]) -> Sequence[Account]:
        """Return the accounts that can be asked for. Raises Gone when there is none.

        A name that the platform could never have given out makes it refuse the whole batch.
        """
        found = [account for account in accounts if self.is_possible(account)]
        if not found:
            raise Gone(self.name, self.impossible)
        return found

    def is_possible(self, account: Account) -> bool:
        known = account.external_id is not None
        return known or re.fullmatch(self.handle_pattern, account.handle, re.IGNORECASE) is not None

    @property
    def impossible(self) -> str:
        return f"not a handle that {self.title} gives out"

    def known_id(self, account: Account) -> str:
        """Return the platform's id of an account. Raises Transient before its profile has been read once."""
        if account.external_id is None:
            raise Transient(self.name, "its id isn't known yet: the profile is read first")
        return account.external_id


def gone(account: Account, reason: str) -> Missing:
    return Missing(account_key=account.account_key, result="gone", reason=reason)


def newest_first(posts: Sequence[Post]) -> tuple[Post, ...]:
    return tuple(sorted(posts, key=lambda post: post.published_at, reverse=True))


def total(*counts: int | None) -> int | None:
    """Add up the counts that are told; None when none is."""
    told = [count for count in counts if count is not None]
    return sum(told) if told else None
