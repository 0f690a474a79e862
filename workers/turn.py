"""A job's turn to call: its slot, the moment its request may leave, and what becomes of a slot that isn't used.

The slot was given before its time, and until the bytes leave a job is taken and a connection made. So the last step
is here, between connecting and sending: wait for the slot's time, and let the next call know if this one left late.
"""

import time

import structlog
from msgspec import structs
from redis import RedisError

from workers.allowance import Slot, TaskAllowance

log = structlog.get_logger()

# Redis is away: calling without an allowance would be a guess, so wait and ask again.
ASK_AGAIN_S = 1.0
# The longest that a call which missed its slot waits for another, connected and with a thread in hand.
LONGEST_RENEWAL_S = 2.0
# Less than this is never late: limits with hundreds of calls a second aren't kept to the millisecond.
_LEAST_LATE_S = 0.01


class NoSlot(Exception):
    """The call missed its slot, and the next one is too far away to wait for it here."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"no slot within {wait_s:g} s")
        self.wait_s = wait_s


class Turn:
    """One job's turn: a `workers.deadline.Gate` for its requests. Used by one thread."""

    def __init__(self, allowance: TaskAllowance, slot: Slot) -> None:
        self._allowance = allowance
        self._slot = slot
        self._is_used = False
        self._is_moved = False
        self._requests = 0

    @property
    def credential(self) -> str | None:
        """The label of the credential to call with, None where there is no slot."""
        return self._slot.credential

    @property
    def wait_s(self) -> float:
        """Seconds until there may be a slot, where there is none; 0 when all credentials are paused."""
        return self._slot.wait_s

    def wait(self) -> None:
        """Return when the request may leave. Raises NoSlot when its time has passed and the next one is far away."""
        if self._is_used:
            return  # a further request of the same call
        while True:
            ahead_s = self._slot.starts_at - time.monotonic()
            if ahead_s > 0:
                # Not the sleep that keeps a worker from serving others: the slot is ours from now on and a moment away
                # (`allowance.LEAD_S` at most), and nobody else could call before it. Looked at again afterwards: a
                # process that is stopped in its sleep wakes late.
                time.sleep(ahead_s)
            elif self._is_late():
                self._renew()
            elif ahead_s < -_LEAST_LATE_S and not self._is_moved:
                self._move()
            else:
                break
        self._is_used = True

    def sent(self) -> None:
        """Push the next call, whichever worker makes it, as far away from this request as the limit wants."""
        # What the further requests of a call keep is planned for already: only their own share counts from them.
        space_s = self._slot.space_s if self._requests == 0 else self._slot.space_s / self._allowance.requests
        self._requests += 1
        try:
            self._push(space_s)
        except RedisError as exc:  # nobody gets a slot until it is back; or this machine was cut off just now
            log.warning("allowance_unreachable", error=type(exc).__name__)

    def end(self) -> None:
        """Give the slot back if no request left: duplicates and paused jobs cost no allowance."""
        if self._is_used:
            return
        self._is_used = True
        try:
            self._give_back()
        except RedisError as exc:  # the slot is lost
            log.warning("allowance_unreachable", error=type(exc).__name__)

    def _is_late(self) -> bool:
        """Tell whether the slot's time is so long ago that the next call may be on its way already."""
        late_s = time.monotonic() - self._slot.starts_at
        return late_s > max(_LEAST_LATE_S, self._slot.space_s / 2) and self._slot.space_s > 0

    def _move(self) -> None:
        """Let the slot begin now, a little late: the next call must hear so before this one leaves.

        A machine that is cut off can't say it afterwards; where it can't now, nothing leaves (NoSlot).
        """
        self._is_moved = True  # once: to say it takes its time, too
        moved = structs.replace(self._slot, starts_at=time.monotonic())
        try:
            self._push(self._slot.space_s)
        except RedisError as exc:
            raise NoSlot(ASK_AGAIN_S) from exc
        self._slot = moved

    def _renew(self) -> None:
        """Take a new slot in the place of the missed one."""
        ends_at = time.monotonic() + LONGEST_RENEWAL_S
        try:
            self._give_back()
            while True:
                slot = self._allowance.reserve(self.credential)
                if slot.credential is not None:
                    self._slot, self._is_moved = slot, False
                    return
                if slot.wait_s == 0 or time.monotonic() + slot.wait_s > ends_at:
                    raise NoSlot(slot.wait_s)
                time.sleep(slot.wait_s)
        except RedisError as exc:
            raise NoSlot(ASK_AGAIN_S) from exc

    def _push(self, for_s: float) -> None:
        if self._slot.receipt is not None and for_s > 0:
            self._allowance.shared.push(self._slot.receipt, for_s=for_s)

    def _give_back(self) -> None:
        receipt, self._slot = self._slot.receipt, structs.replace(self._slot, receipt=None)
        if receipt is not None:
            self._allowance.shared.give_back(receipt)
