"""Whose request it is: only trusted proxies may say so."""

import ipaddress

import pytest
from falcon.asgi import Request
from falcon.testing import create_asgi_req

from api.client import Proxies, household


def request(peer: str, **headers: str) -> Request:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    req = create_asgi_req(headers=given)
    req.scope["client"] = (peer, 4711)
    return req


def proxies(*networks: str) -> Proxies:
    return Proxies([ipaddress.ip_network(network) for network in networks])


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9, 10.0.0.8", "203.0.113.9"),
        ("203.0.113.9,10.0.0.8 , 10.0.0.7", "203.0.113.9"),
        ("2001:db8::1", "2001:db8::1"),
        ("203.0.113.9:4711", "203.0.113.9"),
        ("6.6.6.6, [2001:db8::1]:4711", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[", "10.0.0.7"),
        ("10.0.0.8", "10.0.0.8"),
        ("6.6.6.6, unknown", "10.0.0.7"),
        ("6.6.6.6, , 10.0.0.8", "10.0.0.8"),
        ("6.6.6.6, '; DROP TABLE x", "10.0.0.7"),
        ("", "10.0.0.7"),
        (None, "10.0.0.7"),
    ],
)
def test_the_address_is_the_nearest_that_no_trusted_proxy_has(forwarded: str | None, address: str) -> None:
    headers = {} if forwarded is None else {"X_Forwarded_For": forwarded}
    assert proxies("10.0.0.0/8").address(request("10.0.0.7", **headers)) == address


def test_nobody_else_is_believed() -> None:
    forged = request("203.0.113.9", X_Forwarded_For="6.6.6.6", X_Forwarded_Proto="https")
    for trusted in (proxies(), proxies("10.0.0.0/8"), proxies("::1/128")):
        assert trusted.address(forged) == "203.0.113.9"
        assert not trusted.is_https(forged)
    assert proxies("203.0.113.9/32").is_https(forged)
    assert not proxies("203.0.113.9/32").is_https(request("203.0.113.9", X_Forwarded_Proto="http"))


def test_the_addresses_of_one_ipv6_customer_are_one() -> None:
    assert household("2001:db8:1:2:3:4:5:6") == household("2001:db8:1:2:ffff::") == "2001:db8:1:2::/64"
    assert household("2001:db8:1:3::1") != household("2001:db8:1:2::1")
    assert household("::ffff:203.0.113.9") == household("203.0.113.9") == "203.0.113.9"
    assert household("") == ""
