"""How Flickr is asked. Its answers stand among the recorded ones."""

import pytest

from pipeline.errors import Gone, Transient
from pipeline.limits import Rate
from pipeline.records import Account
from tests.unit.workers.platforms.notebook import Notebook
from workers.platforms.flickr import Flickr

FLICKR = Flickr()


def test_all_calls_together_keep_within_what_a_key_may_ask_in_an_hour() -> None:
    assert sum(Rate.parse(call.limit).calls for call in FLICKR.calls.values()) == 3_600
    assert {Rate.parse(call.limit).period_s for call in FLICKR.calls.values()} == {3_600}


@pytest.mark.parametrize("kind", ["resolve", "profiles"])
def test_a_call_makes_as_many_requests_as_it_takes_of_the_limit(kind: str) -> None:
    http = Notebook({"user": {"id": "1@N00"}}, {}, {}, FLICKR_API_KEY="key")
    account = Account(1, "flickr", "rivers", "", external_id=None if kind == "resolve" else "1@N00")
    (FLICKR.fetch_resolve if kind == "resolve" else FLICKR.fetch_profiles)([account], http)
    assert len(http.asked) == FLICKR.calls["resolve" if kind == "resolve" else "profiles"].requests


def test_the_key_is_part_of_the_question_and_of_nothing_else() -> None:
    http = Notebook({}, FLICKR_API_KEY="key")
    FLICKR.fetch_posts(Account(1, "flickr", "rivers", "", external_id="1@N00"), http, None)
    (asked,) = http.asked
    assert asked.params["api_key"] == "key"
    assert asked.headers == {} == FLICKR.headers(http)


def test_posts_wait_for_the_id_of_their_account() -> None:
    http = Notebook()
    with pytest.raises(Transient, match="the profile is read first"):
        FLICKR.fetch_posts(Account(1, "flickr", "rivers", ""), http, None)
    assert http.asked == []


def test_a_name_that_can_t_exist_is_not_asked_for() -> None:
    http = Notebook()
    with pytest.raises(Gone, match="not a handle that Flickr gives out"):
        FLICKR.fetch_resolve([Account(1, "flickr", "a b", "")], http)
    assert http.asked == []
