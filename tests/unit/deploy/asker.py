"""A client of a simulator, for its tests."""

import json
from collections.abc import Mapping
from typing import Any

import urllib3

CREDENTIALS = {"Authorization": "Bearer any", "X-Goog-Api-Key": "any"}


class Asker:
    """Asks one simulator, over one kept-alive connection."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.pool = urllib3.PoolManager(retries=False, timeout=10)

    def ask(self, path: str, headers: Mapping[str, str] = CREDENTIALS) -> urllib3.BaseHTTPResponse:
        return self.pool.request("GET", self.url + path, headers=headers)

    def get(self, path: str, status: int = 200, headers: Mapping[str, str] = CREDENTIALS) -> Any:
        answer = self.ask(path, headers)
        assert answer.status == status, answer.data
        return answer.json()

    def post(self, path: str, status: int = 200, headers: Mapping[str, str] = CREDENTIALS, **body: Any) -> Any:
        """Send a body by urllib3's own names: `json=…`, or `fields=…` for a form."""
        form = {"encode_multipart": False} if "fields" in body else {}
        answer = self.pool.request("POST", self.url + path, headers=headers, **body, **form)
        assert answer.status == status, answer.data
        return answer.json()

    def order(self, control: str, status: int = 200, **order: object) -> Any:
        answer = self.pool.request("POST", f"{self.url}/_simulator/{control}", body=json.dumps(order))
        assert answer.status == status, answer.data
        return answer.json()
