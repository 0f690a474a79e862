"""Who may look at the workers: a password that Flower would read otherwise than it was meant is refused."""

import pytest

from pipeline import flower
from tests.fakes import settings


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "set FLOWER_BASIC_AUTH=user:password"),
        ("s3cret", "isn't user:password"),
        ("ann:", "isn't user:password"),
        (":s3cret", "isn't user:password"),
        # Flower would take what follows the comma for all that has to be known.
        ("ann:long,s3cret", "no password has a comma"),
        ("ann:s3cret,", "no password has a comma"),
        ("ann:s3cr\u00e9t", "isn't ASCII"),
    ],
    ids=["none", "no user", "no password", "an empty user", "a comma", "a comma at the end", "no ASCII"],
)
def test_what_is_no_password_is_refused_without_being_shown(given: str, said: str) -> None:
    with pytest.raises(flower.Closed) as refused:
        flower.users(settings("postgresql:///nowhere", "redis://nowhere", FLOWER_BASIC_AUTH=given))

    assert said in str(refused.value)
    assert "s3c" not in str(refused.value)


def test_one_or_several_may_look() -> None:
    given = settings("postgresql:///nowhere", "redis://nowhere", FLOWER_BASIC_AUTH="ann:one two,bob:a:b")

    assert flower.users(given) == [("ann", "one two"), ("bob", "a:b")]
