"""What tests of the lanes share: a platform that stamps every call, and accounts that stand for a lane each."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import unquote

from sqlalchemy import select, update

from db.engine import Engine, reading, transaction
from db.models import NEVER_DUE, dim_account, scrape_state
from deploy.simulator.faults import Fault
from deploy.simulator.simulation import Simulation
from deploy.simulator.site import Answer
from pipeline.accounts import import_list


class Stamping(Simulation):
    """A simulator that knows when each call began."""

    def __init__(self) -> None:
        super().__init__(seed=1)
        self.slow_s: dict[str, float] = {}
        """How long calls for handles with this in them take."""
        self.calls: list[tuple[float, str]] = []
        """When each call began by the monotonic clock, and its query."""

    def answer(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[Answer, Fault | None]:
        began, query = time.monotonic(), unquote(target)
        if not target.startswith("/_simulator/"):
            self.calls.append((began, query))
        answer, fault = super().answer(method, target, headers, body)
        slow_s = next((slow_s for part, slow_s in self.slow_s.items() if part in query), None)
        return answer, fault if slow_s is None else Fault("latency", slow_s)

    def began(self, handle: str) -> float | None:
        """Return when the first call for a handle began."""
        return next((at for at, query in list(self.calls) if handle in query), None)


def key_of(engine: Engine, handle: str) -> int:
    with reading(engine) as conn:
        key: int = conn.execute(select(dim_account.c.account_key).where(dim_account.c.handle == handle)).scalar_one()
        return key


def handles(lane: str, count: int) -> list[str]:
    return [f"{lane}{number}.bsky.social" for number in range(count)]


def list_accounts(engine: Engine, of_core: int = 0, of_retry: int = 0, not_due: int = 0) -> None:
    """List accounts of Bluesky: `core0.bsky.social` …, `retry0…` that failed once, and `asked0…` that aren't due."""
    counts = {"core": of_core, "retry": of_retry, "asked": not_due}
    rows = [f"bluesky,{handle}" for lane, count in counts.items() for handle in handles(lane, count)]
    report = import_list(engine, "\n".join(["platform,handle", *rows]).encode(), now=datetime.now(UTC))
    assert report.counts == {"imported": len(rows)}, report.rows
    with transaction(engine) as conn:
        for lane, values in (("retry", {"failures": 1, "result": "failed"}), ("asked", {"next_due_at": NEVER_DUE})):
            keys = select(dim_account.c.account_key).where(dim_account.c.handle.like(f"{lane}%"))
            conn.execute(update(scrape_state).where(scrape_state.c.account_key.in_(keys)).values(**values))
