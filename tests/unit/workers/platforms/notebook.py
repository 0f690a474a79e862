"""A client without a network, which notes what a platform asks for."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

from pipeline.records import Page

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


class Asked(Struct, frozen=True):
    method: str
    path: str
    params: Mapping[str, str] = {}
    json: Any = None
    form: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}


class Notebook:
    """Gives the answers in order; credentials are named as in the environment."""

    def __init__(self, *answers: Any, **credentials: str) -> None:
        self.asked: list[Asked] = []
        self._answers = list(answers)
        self._credentials = credentials

    def get(self, path: str, params: Sequence[tuple[str, str]] = (), **said: Any) -> Page:
        return self._note(Asked("GET", path, dict(params), headers=said.get("headers") or {}))

    def post(
        self,
        path: str = "",
        params: Sequence[tuple[str, str]] = (),
        *,
        json: Any = None,
        form: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        expect: Sequence[int] = (200,),
    ) -> Page:
        return self._note(Asked("POST", path, dict(params), json, dict(form), headers or {}))

    def token(self) -> str:
        return "token"

    def credential(self, name: str) -> str | None:
        return self._credentials.get(name)

    def _note(self, asked: Asked) -> Page:
        self.asked.append(asked)
        return Page(200, {}, self._answers.pop(0), NOON)
