"""What is done to the system during a soak: kills without a word, and restarts of each service."""

import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from random import Random

import psutil
from sqlalchemy import text

from db.engine import DatabaseError, reading
from tests.performance.load.checks import Blow
from tests.performance.load.site import API_WORKERS, Site

# Calls whose count a worker may still have in hand when it is killed: those under way, and just ended.
IN_HAND_S = 3.0
# After a message was lost by the broker or a recorder it takes a worker so long to see it and send it again.
UNSURE_S = 40.0
# So long a worker that is to be killed is given to make a call.
CALL_WITHIN_S = 5.0


class Blows:
    """Strikes, waits until what was struck is back, and notes what that explains."""

    def __init__(self, site: Site, random: Random) -> None:
        self._site = site
        self._random = random
        self._unsure_until = 0.0
        self.fallen: list[Blow] = []
        self.at_stake: dict[str, int] = {}
        """The calls whose count may have died with a worker, by platform."""
        self.kinds: Mapping[str, Callable[[], None]] = {
            "worker killed": partial(self._kill, "worker_"),
            "API process killed": self._kill_api_worker,
            "API killed": self._kill_api,
            "API restarted": self._restart_api,
            **{f"{name} killed": partial(self._kill, name) for name in site.names if _is_single(name)},
            "PostgreSQL restarted": partial(self._restart_postgres, signal.SIGINT),
            "PostgreSQL stopped at once": partial(self._restart_postgres, signal.SIGQUIT),
            "Redis restarted": partial(self._restart_redis, site.servers.redis.stop),
            "Redis killed": partial(self._restart_redis, site.servers.redis.kill),
        }

    def strike(self, name: str) -> None:
        self._name = name
        self.kinds[name]()

    def _note(self, struck: str, at: float, *excuses: str) -> None:
        self.fallen.append(Blow(self._name, struck, at, time.time(), excuses))

    def _kill(self, prefix: str) -> None:
        """Kill a process with such a name; no request notices."""
        # It may have been struck a moment ago, and its keeper waits.
        self._site.wait(lambda: self._alive(prefix), f"{prefix} started again")
        name, pid = self._random.choice(self._alive(prefix))
        if name.startswith("worker_"):
            self._await_call(name.removeprefix("worker_"))
        at = time.time()
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        if name == "recorder":
            self._unsure_until = at + UNSURE_S
        if name.startswith("worker_"):
            platform = name.removeprefix("worker_")
            since = at - (UNSURE_S if at < self._unsure_until else IN_HAND_S)
            known = self.at_stake.get(platform, 0)
            self.at_stake[platform] = known + self._site.teller.calls_of(platform, since=since)
        self._note(name, at)

    def _alive(self, prefix: str) -> list[tuple[str, int]]:
        found = self._site.pids().items()
        return [(name, pid) for name, pid in found if name.startswith(prefix) and psutil.pid_exists(pid)]

    def _await_call(self, platform: str) -> None:
        """Return in the moment after a call, when its answer isn't written yet; a platform that is asked nothing has none."""
        asked = self._site.teller.asked
        before, until = asked[platform], time.monotonic() + CALL_WITHIN_S
        while asked[platform] == before and time.monotonic() < until:
            time.sleep(0.001)

    def _kill_api_worker(self) -> None:
        victim = self._random.choice(self._site.api_workers())
        at = time.time()
        victim.kill()
        self._site.wait(
            lambda: victim not in (now := self._site.api_workers()) and len(now) == API_WORKERS, "a new API process"
        )
        self._note("api", at, "broken", "timeout")

    def _kill_api(self) -> None:
        at, pid = time.time(), self._site.pids()["api"]
        os.kill(pid, signal.SIGKILL)
        self._site.wait(lambda: self._site.pids()["api"] != pid and self._site.is_ready(), "the API again")
        self._note("api", at, "broken", "timeout")

    def _restart_api(self) -> None:
        """Let gunicorn replace its processes: nobody may notice."""
        before, at = set(self._site.api_workers()), time.time()
        os.kill(self._site.pids()["api"], signal.SIGHUP)
        self._site.wait(
            lambda: not before & (now := set(self._site.api_workers())) and len(now) == API_WORKERS,
            "new API processes",
        )
        self._note("api", at)

    def _restart_postgres(self, way: signal.Signals) -> None:
        at = time.time()
        self._site.servers.stop_postgres(way)
        self._site.servers.start_postgres()
        self._site.wait(self._postgres_answers, "PostgreSQL")
        self._note("PostgreSQL", at, "5xx", "timeout")

    def _postgres_answers(self) -> bool:
        with suppress(DatabaseError), reading(self._site.engine) as conn:
            return bool(conn.scalar(text("SELECT true")))
        return False

    def _restart_redis(self, end: Callable[[], None]) -> None:
        """What it did not write to its file is lost; requests are answered without it."""
        at = time.time()
        end()
        self._site.servers.redis.start()
        self._unsure_until = time.time() + UNSURE_S
        self._note("Redis", at)


def _is_single(name: str) -> bool:
    return not name.startswith("worker_") and name != "api"
