"""Scripts over one connection to a real Redis: in order, whatever becomes of the connection or of who asks."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import redis
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from api.cache import shared
from api.cache.link import Script, Scripts
from deploy.embedded import start_redis
from tests.serving import wait_for

ECHO = Script("return {ARGV[1], KEYS[1]}")
COUNT = Script("return redis.call('INCR', KEYS[1])")


def with_scripts(url: str, scenario: Callable[[Scripts], Awaitable[None]], *, timeout_s: float = 20) -> None:
    async def whole() -> None:
        client = shared.connect(url)
        scripts = Scripts(client, timeout_s=timeout_s)
        await scenario(scripts)
        await scripts.close()
        await client.aclose()

    asyncio.run(whole())


def test_each_of_many_at_once_gets_its_own_answer_whatever_its_size(redis_url: str) -> None:
    async def ask(scripts: Scripts, number: int) -> None:
        text = f"{number}-" + "x" * (number % 7 * 30_000)
        assert await scripts.run(ECHO, [f"key{number}"], [text]) == [text.encode(), f"key{number}".encode()]

    async def scenario(scripts: Scripts) -> None:
        await asyncio.gather(*[ask(scripts, number) for number in range(300)])

    with redis.Redis.from_url(redis_url) as client:
        before = {one["id"] for one in client.client_list()}  # one's own, and what earlier tests still hold
        with_scripts(redis_url, scenario)
        # Redis sees a moment later that a connection was closed.
        wait_for(lambda: {one["id"] for one in client.client_list()} <= before, "what was opened to be closed")


def test_who_goes_away_leaves_the_others_their_answers(redis_url: str) -> None:
    async def scenario(scripts: Scripts) -> None:
        asking = [asyncio.create_task(scripts.run(ECHO, ["k"], [number])) for number in range(50)]
        await asyncio.sleep(0)
        for one in asking[::2]:
            one.cancel()
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert [one[0] for one in found[1::2] if isinstance(one, list)] == [b"%d" % n for n in range(1, 50, 2)]
        assert (await scripts.run(ECHO, ["k"], ["after"]))[0] == b"after"

    with_scripts(redis_url, scenario)


def test_a_connection_that_was_closed_is_replaced_and_a_script_that_was_forgotten_is_sent(redis_url: str) -> None:
    async def scenario(scripts: Scripts) -> None:
        with redis.Redis.from_url(redis_url) as client:
            for number in range(1, 4):
                assert await scripts.run(COUNT, ["n"], []) == number
                client.client_kill_filter(_type="normal", skipme=True)
                client.script_flush()
            client.delete("n")

    with_scripts(redis_url, scenario)


def test_what_redis_refuses_is_told_to_him_who_asked_alone(redis_url: str) -> None:
    wrong = Script("return redis.call('NOSUCH')")

    async def scenario(scripts: Scripts) -> None:
        found = await asyncio.gather(
            scripts.run(ECHO, ["k"], ["a"]),
            scripts.run(wrong, [], []),
            scripts.run(ECHO, ["k"], ["b"]),
            return_exceptions=True,
        )
        assert [found[0][0], type(found[1]), found[2][0]] == [b"a", ResponseError, b"b"]  # type: ignore[index]

    with_scripts(redis_url, scenario)


def test_a_redis_that_hangs_fails_all_who_wait_in_time_and_is_asked_again_when_it_is_back(tmp_path: Path) -> None:
    server = start_redis(tmp_path / "redis")

    async def scenario(scripts: Scripts) -> None:
        await scripts.run(ECHO, ["k"], ["a"])
        os.kill(server.process.pid, signal.SIGSTOP)
        began = time.monotonic()
        found = await asyncio.gather(
            *[scripts.run(ECHO, ["k"], [number]) for number in range(20)], return_exceptions=True
        )
        assert time.monotonic() - began < 10
        assert {type(one) for one in found} == {RedisTimeoutError}
        os.kill(server.process.pid, signal.SIGCONT)
        assert (await scripts.run(ECHO, ["k"], ["again"]))[0] == b"again"

    with_scripts(server.url, scenario, timeout_s=1)
    server.stop()


def test_a_redis_that_is_gone_is_an_error_at_once(tmp_path: Path) -> None:
    server = start_redis(tmp_path / "redis")

    async def scenario(scripts: Scripts) -> None:
        await scripts.run(ECHO, ["k"], ["a"])
        server.stop()
        found = await asyncio.gather(*[scripts.run(ECHO, ["k"], ["b"]) for _ in range(5)], return_exceptions=True)
        assert all(isinstance(one, RedisError | OSError) for one in found)
        with pytest.raises((RedisError, OSError)):
            await scripts.run(ECHO, ["k"], ["c"])

    with_scripts(server.url, scenario)
