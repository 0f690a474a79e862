from api.dashboard.pages import change, count, web


def test_an_unknown_number_is_a_dash_and_never_a_zero() -> None:
    assert (count(None), count(0), count(1234567)) == ("–", "0", "1,234,567")
    assert (change(None), change(0), change(1234), change(-1234)) == ("–", "±0", "+1,234", "−1,234")


def test_only_web_addresses_are_linked() -> None:
    assert web("https://x.example/agency") == "https://x.example/agency"
    assert web("javascript:alert(1)") is None
