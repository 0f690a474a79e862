"""A total time per request, at no price for those that never wait."""

import asyncio
from typing import Any

import pytest

from api import deadline
from api.problems import Problem


class Resource:
    """Does what the test wants; `ended` says how it ended."""

    def __init__(self, work: Any) -> None:
        self._work = work
        self.ended: str | None = None

    async def on_get(self, req: Any, resp: Any, **params: Any) -> None:
        try:
            resp.append(await self._work(**params))
            self.ended = "well"
        except BaseException as exc:
            self.ended = type(exc).__name__
            raise


def run(work: Any, limit_s: float = 30, **params: Any) -> tuple[Resource, list[Any]]:
    resource, resp = Resource(work), []  # type: ignore[var-annotated]
    deadline.limit(resource, limit_s)
    asyncio.run(resource.on_get(None, resp, **params))
    return resource, resp


async def at_once(**params: Any) -> Any:
    return params


async def after_waiting(**params: Any) -> Any:
    for _ in range(3):
        await asyncio.sleep(0)
    await asyncio.gather(asyncio.sleep(0.001), asyncio.sleep(0.002))
    future = asyncio.get_running_loop().run_in_executor(None, lambda: params)
    return await asyncio.shield(future)


@pytest.mark.parametrize("work", [at_once, after_waiting])
def test_what_is_answered_in_time_is_answered(work: Any) -> None:
    resource, resp = run(work, handle="a")
    assert (resource.ended, resp) == ("well", [{"handle": "a"}])


def test_what_takes_longer_is_ended_with_a_503() -> None:
    resources = []

    async def forever() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Problem) as raised:
        resource = Resource(forever)
        resources.append(resource)
        deadline.limit(resource, 0.05)
        asyncio.run(resource.on_get(None, []))
    assert raised.value.status_code == 503
    assert raised.value.headers["Retry-After"]
    assert resources[0].ended == "CancelledError"


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("error", [ValueError, TimeoutError, Problem])
def test_what_the_work_raises_is_raised(error: type[Exception], waits: bool) -> None:
    async def fails() -> None:
        if waits:
            await asyncio.get_running_loop().run_in_executor(None, _raise, error)
        _raise(error)

    with pytest.raises(error) as raised:
        run(fails)
    assert not isinstance(raised.value, Problem) or raised.value.status_code == 400


def test_what_the_work_catches_stays_caught() -> None:
    async def recovers() -> str:
        try:
            await asyncio.get_running_loop().run_in_executor(None, _raise, ValueError)
        except ValueError:
            await asyncio.sleep(0)
        return "went on"

    assert run(recovers)[1] == ["went on"]


def test_what_keeps_time_by_itself_is_left_alone() -> None:
    resource = Resource(lambda: asyncio.sleep(0.2))
    resource.keeps_time = True  # type: ignore[attr-defined]
    deadline.limit(resource, 0.01)
    asyncio.run(resource.on_get(None, []))
    assert resource.ended == "well"


def test_who_leaves_ends_the_work() -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    async def leave() -> str | None:
        resource = Resource(forever)
        deadline.limit(resource, 30)
        task = asyncio.create_task(resource.on_get(None, []))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return resource.ended

    assert asyncio.run(leave()) == "CancelledError"


def _raise(error: type[Exception]) -> None:
    raise Problem(400, "no") if error is Problem else error("no")
