"""How LinkedIn is asked. Its answers stand among the recorded ones."""

import pytest

from pipeline.errors import Gone
from pipeline.records import Account
from tests.unit.workers.platforms.notebook import Notebook
from workers.platforms.linkedin import LinkedIn

LINKEDIN = LinkedIn()


@pytest.mark.parametrize(("credentials", "version"), [({}, "202606"), ({"LINKEDIN_VERSION": "202609"}, "202609")])
def test_every_request_names_the_version_it_is_written_for(credentials: dict[str, str], version: str) -> None:
    assert LINKEDIN.headers(Notebook(LINKEDIN_ACCESS_TOKEN="river", **credentials)) == {
        "Authorization": "Bearer river",
        "LinkedIn-Version": version,
        "X-Restli-Protocol-Version": "2.0.0",
    }


def test_an_account_whose_id_is_known_is_not_looked_up() -> None:
    http = Notebook({"firstDegreeSize": 1})
    LINKEDIN.fetch_profiles([Account(1, "linkedin", "10000001", "", external_id="10000001")], http)
    (asked,) = http.asked
    # LinkedIn wants the colons of an address encoded.
    assert asked.path == "/networkSizes/urn%3Ali%3Aorganization%3A10000001"


def test_a_name_that_can_t_exist_is_not_asked_for() -> None:
    http = Notebook()
    with pytest.raises(Gone, match="not a handle that LinkedIn gives out"):
        LINKEDIN.fetch_resolve([Account(1, "linkedin", "a b", "")], http)
    assert http.asked == []


def test_posts_which_only_administrators_may_read_are_never_asked_for() -> None:
    assert set(LINKEDIN.calls) == {"resolve", "profiles"}
    assert LINKEDIN.not_offered.engagement
