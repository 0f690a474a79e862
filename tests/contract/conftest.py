"""The recorded good calls, made once through the real client."""

from collections.abc import Mapping

import pytest
from pytest_httpserver import HTTPServer

from tests.contract import playback
from tests.contract.playback import READERS, Answer


@pytest.fixture(scope="session")
def good_answers(make_httpserver: HTTPServer) -> Mapping[tuple[str, str], Answer]:
    """Return the answers by platform and name of the recording."""
    found = {}
    for one in playback.load():
        if one.is_good:
            playback.play(make_httpserver, one.exchanges)
            page = playback.fetch(one, playback.client(READERS[one.platform], make_httpserver))
            found[one.platform, one.name] = Answer(one, page)
            make_httpserver.clear()
    return found
