"""Every address of the API and the dashboard, gathered from the files that serve them.

A file in `api/resources` or `api/dashboard` that has addresses gives them by `routes(room)`: a new one is one file.
"""

import pkgutil
from collections.abc import Iterator
from importlib import import_module

from api import dashboard, resources
from api.room import Room

Route = tuple[str, object]


def every(room: Room) -> Iterator[Route]:
    """Yield each address, as Falcon writes it, with its resource."""
    for package in (resources, dashboard):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if routes := getattr(import_module(module.name), "routes", None):
                yield from routes(room)
