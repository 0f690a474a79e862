"""What holds for every reader, whatever a platform answers, and what each asks for: no network."""

import copy
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import platforms
from pipeline.errors import BadPage, Gone, ScrapeError, Transient
from pipeline.records import Account, Missing, Page, Posts, Profile

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
READERS = {name: platform for name, platform in platforms.load().items() if platform.calls}
CALLS = [(name, kind) for name, platform in READERS.items() for kind in platform.calls]
RECORDED = Path(__file__).parents[3] / "contract" / "recorded"


class Notebook:
    """A client that notes what is asked and answers with an empty object."""

    def __init__(self, **credentials: str) -> None:
        self.asked: list[tuple[str, list[tuple[str, str]], Mapping[str, str]]] = []
        self._credentials = credentials

    def get(
        self,
        path: str,
        params: Sequence[tuple[str, str]] = (),
        *,
        host: str = "",
        headers: Mapping[str, str] | None = None,
        expect: Sequence[int] = (200,),
    ) -> Page:
        self.asked.append((path, list(params), headers or {}))
        return page({})

    def credential(self, name: str) -> str | None:
        return self._credentials.get(name)


def page(body: Any, status: int = 200) -> Page:
    return Page(status, {}, body, NOON)


def accounts(name: str, *handles: str, ids: bool) -> list[Account]:
    host = "social.example" if name == "mastodon" else ""
    return [
        Account(key, name, handle, READERS[name].profile_url(handle, host), host, f"id-{handle}" if ids else None)
        for key, handle in enumerate(handles, 1)
    ]


def parse(name: str, kind: str, answer: Page, asked: list[Account]) -> list[Profile | Missing] | Posts | Missing:
    if kind == "posts":
        return READERS[name].parse_posts(answer, asked[0])
    return list(getattr(READERS[name], f"parse_{kind}")(answer, asked))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@pytest.mark.parametrize(("name", "kind"), CALLS)
@given(body=json_values)
def test_an_answer_of_any_shape_gives_one_outcome_per_account_or_a_bad_page(name: str, kind: str, body: Any) -> None:
    asked = accounts(
        name, *(["a.example", "b.example"] if name == "bluesky" else ["aaa", "bbb"]), ids=kind != "resolve"
    )
    assert READERS[name].explain(page(body)) is None or isinstance(READERS[name].explain(page(body)), ScrapeError)
    try:
        found = parse(name, kind, page(body), asked)
    except BadPage:
        return
    if isinstance(found, list):
        assert [one.account_key for one in found] == [1, 2]


def documented_batches() -> list[Any]:
    """Return the recorded answers that speak of several accounts."""
    files = [file for file in sorted(RECORDED.glob("*/*.json")) if "_" in file.stem]
    read = [(file, json.loads(file.read_text())) for file in files]
    return [
        pytest.param(file.parent.name, one, id=f"{file.parent.name}-{file.stem}")
        for file, one in read
        if isinstance(one["expect"], list) and len(one["accounts"]) > 1 and "error" not in one["exchanges"][0]["body"]
    ]


def of(found: list[Any], kind: type) -> list[Any]:
    return [one for one in found if isinstance(one, kind)]


def account_parts(body: Any) -> list[dict[str, Any]]:
    if isinstance(body, list):
        return body
    # Facebook gives an object, by what was asked.
    return next((list(body[key]) for key in ("data", "items", "profiles") if key in body), list(body.values()))


@pytest.mark.parametrize(("name", "recorded"), documented_batches())
@pytest.mark.parametrize("rubbish", [None, {}, [], True, -1.5])
def test_rubbish_in_one_account_s_part_fails_no_neighbour_and_makes_nobody_gone(
    name: str, recorded: Any, rubbish: Any
) -> None:
    platform, kind = READERS[name], recorded["kind"]
    asked = [
        Account(key, name, one["handle"], "https://a.example", one.get("host", ""), one.get("external_id"))
        for key, one in enumerate(recorded["accounts"], 1)
    ]
    body = recorded["exchanges"][0]["body"]
    before = parse(name, kind, page(body), asked)
    gone_before = {one.account_key for one in of(before, Missing) if one.result == "gone"}
    for spoilt, part in enumerate(account_parts(body)):
        for field in part:
            changed = copy.deepcopy(body)
            account_parts(changed)[spoilt][field] = rubbish
            try:
                after = parse(name, kind, page(changed), asked)
            except BadPage as exc:
                pytest.fail(f"{field} = {rubbish!r} failed the whole batch: {exc}")
            assert len(set(of(before, Profile)) - set(of(after, Profile))) <= 1, field
            assert {one.account_key for one in of(after, Missing) if one.result == "gone"} <= gone_before, field
    assert platform.explain(page(body)) is None


# What is asked for


def test_a_hundred_accounts_of_x_are_one_request() -> None:
    http = Notebook()
    READERS["x"].fetch_profiles(accounts("x", *(f"river{n}" for n in range(100)), ids=True), http)
    ((path, params, _),) = http.asked
    assert path == "/2/users"
    assert dict(params)["ids"].count(",") == 99


@pytest.mark.parametrize(
    ("name", "kind", "parameter", "bad"),
    [
        ("x", "resolve", "usernames", "río"),
        ("bluesky", "profiles", "actors", "río"),
        ("facebook", "profiles", "ids", "río"),
    ],
)
def test_a_name_that_can_t_exist_is_not_asked_for_and_leaves_its_neighbours_alone(
    name: str, kind: str, parameter: str, bad: str
) -> None:
    good = "rivers.example" if name == "bluesky" else "rivers"
    asked, http = accounts(name, bad, good, ids=False), Notebook()
    getattr(READERS[name], f"fetch_{kind}")(asked, http)
    ((_, params, _),) = http.asked
    assert [value for key, value in params if key == parameter] == [good]
    first = parse(name, kind, page({"data": [], "profiles": []}), asked)[0]
    assert first == Missing(account_key=1, result="gone", reason=f"not a handle that {READERS[name].title} gives out")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x", "resolve"),
        ("bluesky", "profiles"),
        ("facebook", "profiles"),
        ("instagram", "profiles"),
        ("threads", "profiles"),
    ],
)
def test_nothing_is_asked_when_no_name_can_exist(name: str, kind: str) -> None:
    http = Notebook()
    with pytest.raises(Gone):
        getattr(READERS[name], f"fetch_{kind}")(accounts(name, "río", "a b", ids=False), http)
    assert http.asked == []


@pytest.mark.parametrize("name", ["x", "youtube", "mastodon", "truthsocial"])
def test_posts_wait_for_the_id_of_their_account(name: str) -> None:
    http = Notebook()
    with pytest.raises(Transient, match="the profile is read first"):
        READERS[name].fetch_posts(accounts(name, "rivers", ids=False)[0], http, None)
    assert http.asked == []


@pytest.mark.parametrize(
    ("url", "asked_by"),
    [
        ("https://www.youtube.com/user/rivers", ("forUsername", "rivers")),
        ("https://www.youtube.com/@rivers", ("forHandle", "rivers")),
        ("https://www.youtube.com/c/rivers", ("forHandle", "rivers")),
        ("https://www.youtube.com/rivers", ("forHandle", "rivers")),
    ],
)
def test_the_address_of_a_channel_says_what_kind_of_name_it_holds(url: str, asked_by: tuple[str, str]) -> None:
    http = Notebook()
    READERS["youtube"].fetch_resolve([Account(1, "youtube", "rivers", url)], http)
    assert asked_by in http.asked[0][1]


def test_the_key_of_youtube_travels_in_a_header() -> None:
    assert READERS["youtube"].headers(Notebook(YOUTUBE_API_KEY="key")) == {"X-Goog-Api-Key": "key"}


def test_a_mastodon_token_goes_to_its_own_server_only() -> None:
    http = Notebook(MASTODON_ACCESS_TOKEN="other.example=theirs, Social.Example=ours")
    for host in ("social.example", "third.example", ""):
        READERS["mastodon"].fetch_resolve([Account(1, "mastodon", "rivers", "", host)], http)
    assert [headers for _, _, headers in http.asked] == [{"Authorization": "Bearer ours"}, {}, {}]


def test_a_mastodon_token_without_a_server_goes_nowhere() -> None:
    http = Notebook(MASTODON_ACCESS_TOKEN="stray,social.example,social.example=")
    for host in ("social.example", ""):
        READERS["mastodon"].fetch_resolve([Account(1, "mastodon", "rivers", "", host)], http)
    assert [headers for _, _, headers in http.asked] == [{}, {}]


def test_truth_social_is_read_with_a_token_where_one_is_set() -> None:
    without, with_one = Notebook(), Notebook(TRUTHSOCIAL_ACCESS_TOKEN="ours")
    for http in (without, with_one):
        READERS["truthsocial"].fetch_resolve(accounts("truthsocial", "rivers", ids=False), http)
    assert without.asked[0][2] == {}
    assert with_one.asked[0][2] == {"Authorization": "Bearer ours"}


def test_fifty_pages_of_facebook_are_one_request() -> None:
    http = Notebook()
    READERS["facebook"].fetch_profiles(accounts("facebook", *(f"river{n}" for n in range(50)), ids=True), http)
    ((path, params, _),) = http.asked
    assert path == "/"
    assert dict(params)["ids"].split(",") == [f"id-river{n}" for n in range(50)]


@pytest.mark.parametrize("name", ["facebook", "instagram", "threads"])
def test_a_token_of_meta_travels_in_a_header_and_in_no_address(name: str) -> None:
    platform, (account,) = READERS[name], accounts(name, "rivers", ids=True)
    http = Notebook(**{need: f"{need}-value" for need in platform.needs}, FACEBOOK_APP_SECRET="river-secret")
    platform.fetch_profiles([account], http)
    platform.fetch_posts(account, http, None)
    token = f"{platform.needs[0]}-value"
    assert platform.headers(http) == {"Authorization": f"Bearer {token}"}
    assert len(http.asked) == 2
    assert not any(secret in str(http.asked) for secret in (token, "river-secret"))


def test_facebook_is_shown_a_proof_of_the_app_s_secret_where_it_is_set() -> None:
    without, with_one = (
        Notebook(FACEBOOK_ACCESS_TOKEN="what do ya want for nothing?", **more)
        for more in ({}, {"FACEBOOK_APP_SECRET": "Jefe"})
    )
    for http in (without, with_one):
        READERS["facebook"].fetch_profiles(accounts("facebook", "rivers", ids=True), http)
        READERS["facebook"].fetch_posts(accounts("facebook", "rivers", ids=True)[0], http, None)
    # The second test vector of RFC 4231.
    proof = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert [dict(params).get("appsecret_proof") for _, params, _ in without.asked] == [None, None]
    assert [dict(params).get("appsecret_proof") for _, params, _ in with_one.asked] == [proof, proof]


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("name", ["facebook", "instagram", "threads"])
@given(
    error=st.fixed_dictionaries(
        {"code": st.sampled_from([1, 4, 10, 21, 33, 100, 110, 190, 250, 803, 80002]) | json_values},
        optional={"error_subcode": json_values, "is_transient": json_values, "message": json_values},
    )
)
def test_an_error_of_meta_in_any_shape_is_one_of_ours_and_never_a_number(name: str, status: int, error: Any) -> None:
    answer, asked = page({"error": error}, status), accounts(name, "aaa", "bbb", ids=True)
    try:
        if READERS[name].explain(answer) is None:
            assert of(parse(name, "profiles", answer, asked), Profile) == []
            assert isinstance(parse(name, "posts", answer, asked[:1]), Missing)
    except ScrapeError:
        pass
