"""Every kind of call of every platform against the simulator over a real socket: batches, paging, outcomes, limits."""

import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import urllib3
from msgspec import structs

from deploy.simulator.server import Simulator
from pipeline import errors
from pipeline.errors import ScrapeError
from pipeline.limits import Rate
from pipeline.platforms import Client, Reader, first_kind, midnight_after
from pipeline.records import Account, Kind, Missing, Posts, Profile
from tests.contract.playback import CALLS, READERS, parse
from tests.fakes import settings
from workers.clients import make_clients
from workers.platforms.base import Base

# One more than the smallest limit of a window that is longer than seconds.
MOST_CALLS = 301
BATCHES = [(name, kind) for name, kind in CALLS if READERS[name].calls[kind].batch > 1]


def has_tokens(reader: Reader) -> bool:
    return type(reader).fetch_token is not Base.fetch_token


class World:
    """A simulator that remembers nothing of other tests, and clients that read it as a worker does."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._pool = urllib3.PoolManager(retries=False, timeout=10)
        self.order("reset")

    def close(self) -> None:
        self._pool.clear()

    def order(self, control: str, **order: object) -> None:
        answer = self._pool.request("POST", f"{self.url}/_simulator/{control}", body=json.dumps(order))
        assert answer.status == 200, answer.data

    def state(self) -> Any:
        return self._pool.request("GET", f"{self.url}/_simulator/state").json()

    def client(self, name: str) -> Client:
        return self._client(name, SIMULATOR_URL=self.url)

    def client_with(self, name: str, credential: str) -> Client:
        """Return a client that has this in the place of every credential it needs."""
        given = dict.fromkeys(READERS[name].needs, credential)
        return self._client(name, **given, **{f"{name.upper()}_BASE_URL": f"{self.url}/{name}"})

    def _client(self, name: str, **environ: str) -> Client:
        found = settings("postgresql://nowhere.example/none", "redis://nowhere.example", **environ)
        return make_clients(found, READERS[name])["1"](lambda allowance: None)


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator(port=0) as running:
        yield running


@pytest.fixture
def world(simulator: Simulator) -> Iterator[World]:
    found = World(simulator.url)
    yield found
    found.close()


def named(name: str, *words: str) -> list[Account]:
    """Return accounts whose names hold these words, in the letters that the platform takes."""
    platform, host = READERS[name], "social.example" if name == "mastodon" else ""
    handles = [
        next(handle for handle in spellings(word) if re.fullmatch(platform.handle_pattern, handle)) for word in words
    ]
    return [
        Account(key, name, handle, platform.profile_url(handle, host), host) for key, handle in enumerate(handles, 1)
    ]


def spellings(word: str) -> Iterator[str]:
    for separator in "_-.":
        spelt = word.replace("_", separator)
        yield from (spelt, f"{spelt}.example")


def crowd(name: str, size: int) -> list[Account]:
    return named(name, *(f"river{number}" for number in range(size)))


def ask(name: str, kind: Kind, accounts: Sequence[Account], http: Client, cursor: str | None = None) -> Any:
    """Make one call as a job does."""
    reader = READERS[name]
    if kind == "posts":
        page = reader.fetch_posts(accounts[0], http, cursor)
    else:
        page = (reader.fetch_resolve if kind == "resolve" else reader.fetch_profiles)(accounts, http)
    return parse(name, kind, page, accounts)


def met(name: str, accounts: Sequence[Account], http: Client) -> list[Profile | Missing]:
    """Read accounts for the first time, by what they are called, in calls as large as the platform takes."""
    kind = first_kind(READERS[name], None)
    size = READERS[name].calls[kind].batch
    return [
        one
        for begin in range(0, len(accounts), size)
        for one in ask(name, kind, accounts[begin : begin + size], http)
    ]


def known(name: str, accounts: Sequence[Account], http: Client) -> list[Account]:
    """Return the accounts with the ids that their first reading gave them."""
    return [
        structs.replace(account, external_id=one.external_id)
        for account, one in zip(accounts, met(name, accounts, http), strict=True)
        if isinstance(one, Profile)
    ]


def outcome(name: str, kind: Kind, accounts: Sequence[Account], http: Client) -> Any:
    """Make one call; return the error that it ended in, else what it says of its only account."""
    try:
        found = ask(name, kind, accounts, http)
    except ScrapeError as exc:
        return exc
    return found[0] if isinstance(found, list) else found


def is_gone(found: Any) -> bool:
    return isinstance(found, errors.Gone) or (isinstance(found, Missing) and found.result == "gone")


def is_blocked(found: Any) -> bool:
    return isinstance(found, errors.NotAllowed) or (isinstance(found, Missing) and found.result == "blocked")


# Readings


@pytest.mark.parametrize("name", READERS)
def test_an_account_read_by_its_name_is_the_same_when_read_by_its_id(name: str, world: World) -> None:
    http, accounts = world.client(name), crowd(name, 2)
    first = met(name, accounts, http)
    again = [ask(name, "profiles", [account], http)[0] for account in known(name, accounts, http)]
    assert len({one.external_id for one in again}) == 2
    assert [one.external_id for one in again] == [one.external_id for one in first if isinstance(one, Profile)]
    for one in again:
        for number in ("followers", "following", "posts"):
            assert (getattr(one, number) is None) == (getattr(READERS[name].not_offered, number) is not None), number


@pytest.mark.parametrize(("name", "kind"), BATCHES)
def test_a_full_batch_is_one_request_that_reads_every_account(name: str, kind: Kind, world: World) -> None:
    http, accounts = world.client(name), crowd(name, READERS[name].calls[kind].batch)
    if kind == "profiles":
        accounts = known(name, accounts, http)
    world.order("reset")
    found = ask(name, kind, accounts, http)
    assert all(isinstance(one, Profile) for one in found)
    assert [one.account_key for one in found] == [account.account_key for account in accounts]
    assert sum(world.state()["requests"][name].values()) == 1


@pytest.mark.parametrize("name", [name for name, kind in CALLS if kind == "posts"])
def test_the_pages_of_an_account_hold_each_post_once_newest_first(name: str, world: World) -> None:
    http = world.client(name)
    (account,) = known(name, crowd(name, 1), http)
    cursor, pages = None, []
    while True:
        page = ask(name, "posts", [account], http, cursor)
        assert isinstance(page, Posts)
        pages.append(page.posts)
        assert page.cursor is None or page.cursor != cursor
        cursor = page.cursor
        if cursor is None:
            break
    posts = [post for page in pages for post in page]
    assert len(pages) > 1
    assert len({post.post_id for post in posts}) == len(posts) > 0
    assert posts == sorted(posts, key=lambda post: post.published_at, reverse=True)


# Outcomes by name


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("word", ["river_missing", "river_suspended"])
def test_an_account_that_is_not_there_is_gone(name: str, word: str, world: World) -> None:
    found = outcome(name, first_kind(READERS[name], None), named(name, word), world.client(name))
    assert is_gone(found), found


@pytest.mark.parametrize("name", READERS)
def test_an_account_with_nothing_has_zeros(name: str, world: World) -> None:
    found = outcome(name, first_kind(READERS[name], None), named(name, "river_zero"), world.client(name))
    told = [
        getattr(found, number)
        for number in ("followers", "following", "posts")
        if getattr(READERS[name].not_offered, number) is None
    ]
    assert told == [0] * len(told)


@pytest.mark.parametrize("name", ["x", "youtube", "facebook", "flickr", "bluesky", "mastodon", "truthsocial"])
def test_a_renamed_account_keeps_its_id_and_gets_its_new_handle(name: str, world: World) -> None:
    http = world.client(name)
    (account,) = known(name, named(name, "we_renamed"), http)
    (found,) = ask(name, "profiles", [account], http)
    assert found.external_id == account.external_id
    assert re.fullmatch(r"we.moved(\.example)?", found.handle)


@pytest.mark.parametrize("name", ["instagram", "threads", "tiktok"])
def test_a_renamed_account_is_gone_where_names_are_all_there_is(name: str, world: World) -> None:
    assert is_gone(outcome(name, "profiles", named(name, "we_renamed"), world.client(name)))


@pytest.mark.parametrize(
    ("name", "kind"), [("facebook", "profiles"), ("instagram", "profiles"), ("threads", "profiles")]
)
def test_a_private_account_is_gone_where_it_is_hidden_altogether(name: str, kind: Kind, world: World) -> None:
    assert is_gone(outcome(name, kind, named(name, "my_private"), world.client(name)))


def test_a_protected_account_of_x_has_counts_and_no_posts(world: World) -> None:
    http = world.client("x")
    (account,) = known("x", named("x", "my_private"), http)
    assert is_gone(outcome("x", "posts", [account], http))


def test_followers_that_linkedin_keeps_to_itself_block_the_page(world: World) -> None:
    assert is_blocked(outcome("linkedin", "resolve", named("linkedin", "my_private"), world.client("linkedin")))


def test_hidden_subscribers_are_no_number(world: World) -> None:
    found = outcome("youtube", "resolve", named("youtube", "my_hidden"), world.client("youtube"))
    assert (found.followers, found.precision) == (None, "hidden")


def test_a_deactivated_account_of_bluesky_is_gone(world: World) -> None:
    http = world.client("bluesky")
    assert is_gone(outcome("bluesky", "profiles", named("bluesky", "my_deactivated"), http))
    found = outcome("bluesky", "posts", named("bluesky", "my_deactivated"), http)
    assert (type(found), found.reason) == (errors.Gone, "deactivated")


@pytest.mark.parametrize("name", ["mastodon", "truthsocial"])
@pytest.mark.parametrize("word", ["my_loginwall", "my_botpage"])
def test_a_wall_blocks(name: str, word: str, world: World) -> None:
    assert is_blocked(outcome(name, "resolve", named(name, word), world.client(name)))


# Credentials


@pytest.mark.parametrize("name", [name for name, reader in READERS.items() if reader.needs])
def test_an_expired_credential_blocks_and_is_named(name: str, world: World) -> None:
    found = outcome(name, first_kind(READERS[name], None), crowd(name, 1), world.client_with(name, "expired"))
    assert isinstance(found, errors.NotAllowed)
    assert re.search("|".join(READERS[name].needs), found.reason)


@pytest.mark.parametrize("name", [name for name, reader in READERS.items() if reader.needs and name != "flickr"])
def test_a_credential_without_the_permission_blocks(name: str, world: World) -> None:
    found = outcome(name, first_kind(READERS[name], None), crowd(name, 1), world.client_with(name, "unapproved"))
    assert is_blocked(found), found


@pytest.mark.parametrize("name", [name for name, reader in READERS.items() if has_tokens(reader)])
def test_a_token_that_has_ended_is_renewed_in_the_same_call(name: str, world: World) -> None:
    http, accounts = world.client(name), crowd(name, 1)
    before = met(name, accounts, http)
    world.order("tokens", platform=name)
    assert met(name, accounts, http) == before


# Limits and faults


@pytest.mark.parametrize(("name", "kind"), CALLS)
def test_a_limit_that_is_reached_pauses_until_a_moment_that_makes_sense(name: str, kind: Kind, world: World) -> None:
    http = world.client(name)
    accounts = crowd(name, 1) if kind == first_kind(READERS[name], None) else known(name, crowd(name, 1), http)
    world.order("limits", platform=name, limit=2 * READERS[name].calls[kind].requests, window_s=60)
    found = [outcome(name, kind, accounts, http) for _ in range(3)]
    now = datetime.now(UTC)
    assert not isinstance(found[1], ScrapeError)
    assert isinstance(found[2], errors.RateLimited)
    if isinstance(found[2], errors.QuotaSpent):
        assert any(found[2].retry_at == midnight_after(now, zone) for zone in ("UTC", "America/Los_Angeles"))
    else:
        assert timedelta() < found[2].retry_at - now <= timedelta(hours=1)


@pytest.mark.parametrize(("name", "kind"), CALLS)
def test_no_limit_is_violated_at_the_declared_rate(name: str, kind: Kind, world: World) -> None:
    """Make the calls of one period at once, which is the worst that a rate allows; of many only the first."""
    http = world.client(name)
    accounts = crowd(name, 1) if kind == first_kind(READERS[name], None) else known(name, crowd(name, 1), http)
    world.order("reset")
    for _ in range(min(Rate.parse(READERS[name].calls[kind].limit).calls, MOST_CALLS)):
        ask(name, kind, accounts, http)
    assert world.state()["violations"][name] == 0


@pytest.mark.parametrize(("name", "kind"), CALLS)
@pytest.mark.parametrize("fault", ["truncated", "dropped"])
def test_a_connection_that_breaks_off_is_a_platform_that_is_down(
    name: str, kind: Kind, fault: str, world: World
) -> None:
    http = world.client(name)
    accounts = known(name, crowd(name, 1), http)
    world.order("faults", platform=name, kind=fault)
    assert type(outcome(name, kind, accounts, http)) is errors.PlatformDown
