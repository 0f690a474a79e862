"""What others would pick instead, each measured beside Rollcall: answering, collecting, queueing.

Peers run in an environment of their own (`peers/requirements.txt`). One that can't be had is a row that says why.
"""

from collections.abc import Iterator

from msgspec import Struct

from tests.performance import peers_answers, peers_collecting, peers_queueing, served
from tests.performance.machine import machine
from tests.performance.report import Chapter


class Size(Struct, frozen=True):
    """How much is there, and how often and how long each is measured."""

    answers: peers_answers.Size = peers_answers.Size()
    collecting: peers_collecting.Size = peers_collecting.Size()
    queueing: peers_queueing.Size = peers_queueing.Size()


QUICK = Size(
    answers=peers_answers.Size(accounts=300, rounds=1, seconds=1),
    collecting=peers_collecting.Size(batched=300, single=100, rounds=1),
    queueing=peers_queueing.Size(tasks=200, forked=20, rounds=1),
)


def run(*, quick: bool = False) -> Iterator[Chapter]:
    """Measure, and yield each chapter as it is found."""
    size = QUICK if quick else Size()
    python = served.peers_or_why()
    with machine() as one:
        yield from peers_answers.run(one, size.answers, python)
    with machine() as one:
        yield peers_collecting.run(one, size.collecting, python)
    with machine() as one:
        yield peers_queueing.run(one, size.queueing, python)
