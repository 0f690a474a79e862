"""What the tests of the contract share."""

import pytest
from pytest_httpserver import HTTPServer

from tests.contract.playback import GoodAnswers


@pytest.fixture(scope="session")
def good_answers(make_httpserver: HTTPServer) -> GoodAnswers:
    return GoodAnswers(make_httpserver)
