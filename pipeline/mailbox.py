"""E-mail addresses as people write them in settings and on the command line."""

import re
from email.headerregistry import Address
from email.utils import parseaddr

# What stands in addresses that people have (RFC 5321 knows stranger ones): nothing that a header or a command would
# read as its own, so that an address can't bring another recipient or header along.
_ADDRESS = re.compile(r"(?=.{3,254}$)[A-Za-z0-9.!#$%&'*+/?^_`{|}~-]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*", re.ASCII)


def checked(text: str) -> str:
    """Return an address without blanks around it. Raises ValueError that says how to write it."""
    address = text.strip()
    if not _ADDRESS.fullmatch(address):
        hint = "" if address.isascii() else "; a domain with other letters has a spelling that begins with xn--"
        raise ValueError(f"{text!r} is no e-mail address (name@example.org){hint}")
    return address


def sender(text: str) -> Address:
    """Read `name@example.org` or `Rollcall <name@example.org>`. Raises ValueError that says how to write it."""
    name, address = parseaddr(text)
    if not address or not text.isprintable():
        raise ValueError(f"{text!r} is no sender (name@example.org, or Rollcall <name@example.org>)")
    return Address(display_name=name, addr_spec=checked(address))
