"""What a request takes is told before it is made: calls, time at the limits, money, and whom it leaves out."""

from collections import Counter
from typing import ClassVar

from db.overview import Candidate
from pipeline.estimate import Estimate, LeftOut, Wanted, alike, estimates, sorted_out
from pipeline.limits import Rate
from pipeline.platforms import Call, Quota


class Priced:
    name = "priced"
    quota = None
    needs = ("PRICED_KEY",)
    calls: ClassVar = {
        "profiles": Call(limit="2/s", batch=100, price_usd=0.01),
        "resolve": Call(limit="2/s", requests=2),
    }


class Rationed(Priced):
    name = "rationed"
    quota = Quota(per_day=10, zone="UTC")
    needs = ()


class Unread(Rationed):
    name = "unread"
    calls: ClassVar = {}


PLATFORMS = {p.name: p for p in (Priced(), Rationed(), Unread())}


class Limits:
    """Stands in for settings: every limit as published, and the credentials given."""

    def __init__(self, *credentials: str) -> None:
        self.credentials = credentials

    def rate(self, platform, kind):
        return Rate.parse(platform.calls[kind].limit)

    def lacks(self, platform):
        return tuple(name for name in platform.needs if name not in self.credentials)


def candidates(count: int, platform: str, kind: str = "profiles", host: str = "", is_active: bool = True):
    return [
        Candidate(n, platform, host, f"{platform}/goose{n}", kind, is_active)  # type: ignore[arg-type]
        for n in range(count)
    ]


def estimated(asked, *credentials: str):
    return estimates(Counter(map(alike, asked)), Limits(*credentials), PLATFORMS)


def test_a_call_carries_a_whole_batch_and_accounts_are_paid_one_by_one():
    assert estimated(candidates(101, "priced")) == [
        Estimate("priced", "profiles", accounts=101, calls=2, takes_s=0.5, costs_usd=1.01)
    ]


def test_a_call_asks_one_server_only():
    pond, lake = candidates(3, "rationed", host="pond.example"), candidates(3, "rationed", host="lake.example")
    assert [e.calls for e in estimated(pond + lake)] == [2]


def test_each_kind_of_call_has_its_own_line_and_counts_its_requests():
    found = estimated([*candidates(3, "priced", "resolve"), *candidates(1, "priced")])
    assert [(e.kind, e.calls, e.takes_s) for e in found] == [("profiles", 1, 0.0), ("resolve", 3, 2.5)]


def test_a_daily_quota_makes_it_days():
    assert estimated(candidates(11, "rationed", "resolve"))[0].takes_s == 2 * 86_400


def test_nothing_takes_nothing():
    assert estimated([]) == []


def test_whoever_can_t_be_read_is_left_out_with_the_reason():
    asked = [
        *candidates(1, "priced"),
        *candidates(1, "rationed"),
        *candidates(1, "rationed", is_active=False),
        *candidates(1, "unread"),
        *candidates(1, "vanished"),
    ]
    wanted, left_out = sorted_out(asked, Limits(), PLATFORMS)
    assert [c.name for c in wanted] == ["rationed/goose0"]
    assert left_out == [
        LeftOut("priced/goose0", "needs PRICED_KEY"),
        LeftOut("rationed/goose0", "paused"),
        LeftOut("unread/goose0", "no reader yet"),
        LeftOut("vanished/goose0", "no reader yet"),
    ]
    assert sorted_out(candidates(1, "priced"), Limits("PRICED_KEY"), PLATFORMS)[1] == []


def test_accounts_to_read_are_kept_by_call_and_those_left_out_counted_with_a_few_names():
    wanted = Wanted(Limits(), PLATFORMS)
    asked = [
        *candidates(3, "rationed", host="pond.example"),
        *candidates(2, "rationed", "resolve"),
        *candidates(7, "priced"),
    ]
    left_out = list(wanted.sort(asked))
    assert [one.account for one in left_out] == [f"priced/goose{n}" for n in range(7)]
    assert {one: list(keys) for one, keys in wanted.keys.items()} == {
        ("rationed", "profiles", "pond.example"): [0, 1, 2],
        ("rationed", "resolve", ""): [0, 1],
    }
    assert wanted.total == 5
    assert wanted.left_out == {"needs PRICED_KEY": 7}
    assert wanted.first_left_out == {"needs PRICED_KEY": [f"priced/goose{n}" for n in range(Wanted.FEW)]}
    assert [(e.kind, e.accounts) for e in wanted.estimates()] == [("profiles", 3), ("resolve", 2)]
