"""Every number of a good answer, followed from the field that it stands in to the record that it ends in.

A recorded good answer is read again with one field changed; which fields are counts shows in what comes of it.
"""

from collections.abc import Iterator

import pytest

from pipeline.errors import BadPage
from pipeline.records import Missing, Profile
from tests.contract import playback
from tests.contract.counts import KEYED, SUMS, Place, counts
from tests.contract.parts import Path, mapped, replaced, walk, without
from tests.contract.playback import Answer, GoodAnswers

GOOD = [(one.platform, one.name) for one in playback.load() if one.is_good]
PROFILES = [(one.platform, one.name) for one in playback.load() if one.is_good and one.kind == "profiles"]
# More than any platform has, and beyond what a float holds: a count that passes through one is off by one.
HUGE = 2**53 + 7


def number_fields(answer: Answer) -> Iterator[tuple[Path, str | int, Place]]:
    """Yield each field that a number comes from: its path, its value, and where the number ends."""
    before = counts(answer.read(answer.page.body))
    for path, value in walk(answer.page.body):
        if isinstance(value, bool) or not (isinstance(value, int) or (isinstance(value, str) and value.isdecimal())):
            continue
        try:
            after = counts(answer.read(replaced(answer.page.body, path, type(value)(HUGE))))
        except BadPage:
            continue
        for place in before.keys() & after.keys():
            if before[place] != after[place]:
                yield path, value, place


def is_sum(answer: Answer, place: Place) -> bool:
    return place[1] in SUMS.get(answer.recording.platform, ())


@pytest.mark.parametrize("good", GOOD, ids="-".join)
def test_every_number_of_a_record_stands_in_the_answer(good: tuple[str, str], good_answers: GoodAnswers) -> None:
    answer = good_answers[good]
    told = {place for place, count in counts(answer.read(answer.page.body)).items() if count is not None}
    assert told <= {place for _, _, place in number_fields(answer)}


@pytest.mark.parametrize("good", GOOD, ids="-".join)
def test_a_number_that_is_left_out_or_null_is_none_and_never_zero(
    good: tuple[str, str], good_answers: GoodAnswers
) -> None:
    answer = good_answers[good]
    for path, _, place in number_fields(answer):
        for body in (without(answer.page.body, path), replaced(answer.page.body, path, None)):
            try:
                after = counts(answer.read(body))
            except BadPage:
                continue
            assert after.get(place) is None or is_sum(answer, place), path


@pytest.mark.parametrize("good", GOOD, ids="-".join)
def test_zero_stays_zero_and_a_huge_number_stays_exact(good: tuple[str, str], good_answers: GoodAnswers) -> None:
    answer = good_answers[good]
    for path, value, place in number_fields(answer):
        for count in (0, HUGE):
            after = counts(answer.read(replaced(answer.page.body, path, type(value)(count))))
            rest = (counts(answer.read(without(answer.page.body, path)))[place] or 0) if is_sum(answer, place) else 0
            assert after[place] == count + rest, path


@pytest.mark.parametrize("good", GOOD, ids="-".join)
def test_a_number_reads_the_same_as_digits_in_a_string(good: tuple[str, str], good_answers: GoodAnswers) -> None:
    answer = good_answers[good]
    before = answer.read(answer.page.body)
    for path, value, _ in number_fields(answer):
        other = int(value) if isinstance(value, str) else str(value)
        assert answer.read(replaced(answer.page.body, path, other)) == before, path


# What surrounds the numbers


@pytest.mark.parametrize("good", GOOD, ids="-".join)
def test_fields_that_nobody_knows_change_nothing(good: tuple[str, str], good_answers: GoodAnswers) -> None:
    answer = good_answers[good]
    strange = {"rollcall_news": {"followers_count": 1, "data": [None]}, "rollcall_list": [1, {"id": "9"}]}
    body = mapped(answer.page.body, lambda part: part | strange if isinstance(part, dict) else part)
    assert answer.read(body) == answer.read(answer.page.body)


@pytest.mark.parametrize("good", GOOD, ids="-".join)
def test_each_account_and_post_keeps_its_own_numbers_in_any_order(
    good: tuple[str, str], good_answers: GoodAnswers
) -> None:
    answer = good_answers[good]
    turned = mapped(
        answer.page.body, lambda part: part[::-1] if isinstance(part, list) else dict(reversed(part.items()))
    )
    assert counts(answer.read(turned)) == counts(answer.read(answer.page.body))


@pytest.mark.parametrize("name", playback.READERS)
def test_no_account_of_a_batch_is_left_out_or_named_twice(name: str, good_answers: GoodAnswers) -> None:
    for answer in good_answers.of(name):
        found = answer.read(answer.page.body)
        if isinstance(found, list):
            assert [one.account_key for one in found] == [one.account_key for one in answer.recording.asked()]
            assert all(isinstance(one, Profile | Missing) for one in found)


@pytest.mark.parametrize("good", PROFILES, ids="-".join)
def test_nobody_gets_the_numbers_of_another_id(good: tuple[str, str], good_answers: GoodAnswers) -> None:
    answer = good_answers[good]
    accounts = answer.asked_again()
    ids = [account.external_id.lower() for account in accounts if account.external_id and good[0] not in KEYED]
    for path, value in walk(answer.page.body):
        # Reddit's ids begin with the kind of account.
        if isinstance(value, str | int) and any(
            one == str(value).lower() or one.endswith(f"_{value}") for one in ids
        ):
            another = replaced(answer.page.body, path, type(value)("404404"))
            for one, account in zip(answer.read(another, accounts), accounts, strict=True):
                assert isinstance(one, Missing) or one.external_id == account.external_id, path
