"""`rollcall drain`: let workers finish and stop, as before a deploy."""

import sys
import time
from collections.abc import Sequence
from typing import Any

import click
from kombu.exceptions import OperationalError

from pipeline.app import make_celery
from pipeline.command import Fault, PlatformName, as_json_option, opened
from pipeline.messages import broker_errors
from pipeline.settings import Settings
from pipeline.terminal import note, show_json, show_table

# A worker answers from its loop, which may wait this long for a Redis that doesn't.
ANSWER_S = 2.0


@click.command()
@click.argument("names", nargs=-1, type=PlatformName(), metavar="[PLATFORM]...")
@click.option("--wait", is_flag=True, help="Return when they have stopped.")
@as_json_option
def drain(names: tuple[str, ...], wait: bool, as_json: bool) -> None:
    """Let the workers of these platforms, or all, finish their calls and stop.

    What they hold goes back to its queue, nothing is read twice, and all that waits is read when workers start
    again. Exits 1 when no worker answers, and with --wait when one is still there after the longest time that it
    may take to stop.
    """
    with opened() as (settings, _):
        control = make_celery(settings).control
        try:
            only = {"pattern": f"({'|'.join(names)})-", "matcher": "pcre"} if names else {}
            told = _tell(control, **only)
            left = _wait(control, told, settings) if wait else told
        except broker_errors(settings.broker) as exc:
            raise OperationalError(type(exc).__name__) from exc
    if not told:
        raise Fault("No worker answered: none runs, or none can be reached.")
    states = {worker: "stopping" if not wait else "still there" if worker in left else "stopped" for worker in told}
    if as_json:
        show_json({"workers": states})
    else:
        show_table(("worker", "is"), states.items())
    if wait and left:
        note(f"Not stopped within {settings.stop_s:g} s: {', '.join(left)}. A second SIGTERM ends a worker at once.")
        sys.exit(1)


def _tell(control: Any, **whom: Any) -> Sequence[str]:
    """Tell workers to stop; return the names of those that answered."""
    replies = control.broadcast("shutdown", reply=True, timeout=ANSWER_S, **whom)
    return sorted({name for reply in replies for name in reply})


def _wait(control: Any, workers: Sequence[str], settings: Settings) -> Sequence[str]:
    """Wait until the workers are gone, no longer than they may take; return those that are still there."""
    ends_at = time.monotonic() + settings.stop_s
    while workers and time.monotonic() < ends_at:
        workers = _tell(control, destination=list(workers))
    return workers
