"""Processes are kept by their progress: started again when they die or hang, left down when they left by themselves."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.processes import Keeper, Kept

SPEAK = (
    "import os, socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.connect(os.environ['NOTIFY_SOCKET']);"
)
HANG = "import time; time.sleep(60)"


class Watched:
    """One process under a keeper of its own, and what was said of it."""

    def __init__(self, folder: Path, code: str, *, watchdog_s: float = 60, stop_s: float = 20) -> None:
        self.said: list[str] = []
        kept = Kept(
            f'{sys.executable} -c "{code}"',
            notify=folder / "notify",
            watchdog_s=watchdog_s,
            say=lambda text: self.said.append(text.decode().strip()),
        )
        self.keeper = Keeper([kept], stop_s=stop_s)
        self._thread = threading.Thread(target=self.keeper.run)
        self._thread.start()

    def count(self, text: str) -> int:
        return sum(text in line for line in list(self.said))

    def wait(self, condition: Callable[[], object]) -> None:
        _wait(condition, self.said)

    def stop(self) -> float:
        """Stop the keeper; return the seconds that it took."""
        began = time.monotonic()
        self.keeper.stop()
        self._thread.join()
        return time.monotonic() - began


@pytest.fixture
def keep(tmp_path: Path) -> Iterator[Callable[..., Watched]]:
    made: list[Watched] = []

    def make(code: str, **options: float) -> Watched:
        made.append(Watched(tmp_path, code, **options))
        return made[-1]

    yield make
    for one in made:
        one.keeper.stop()
        one.keeper.stop()
        one.stop()


def _wait(condition: Callable[[], object], said: object = None) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, said
        time.sleep(0.02)


def test_a_process_that_fails_is_started_again(keep: Callable[..., Watched]) -> None:
    kept = keep("print('here', flush=True); raise SystemExit(3)")

    kept.wait(lambda: kept.count("here") == 2)

    assert kept.said[1:3] == ["here", "ended with 3; it is started again in 1 s"]


def test_a_process_that_left_by_itself_stays_down_and_its_keeper_stays(keep: Callable[..., Watched]) -> None:
    kept = keep("print('done', flush=True)")

    kept.wait(lambda: kept.count("stays down"))

    assert kept.stop() < 5
    assert kept.count("done") == 1


def test_what_a_killed_process_had_started_does_not_hold_up_its_next_start(keep: Callable[..., Watched]) -> None:
    child = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
    kept = keep(f"{child} print('here', flush=True); raise SystemExit(3)")

    kept.wait(lambda: kept.count("here") == 2)

    assert kept.count("ended with 3") >= 1


def test_a_process_that_fell_silent_is_killed_and_started_again(keep: Callable[..., Watched]) -> None:
    kept = keep(f"{SPEAK} s.send(b'READY=1' + bytes([10]) + b'WATCHDOG=1'); {HANG}", watchdog_s=1)

    kept.wait(lambda: kept.count("started (pid") == 2)

    assert kept.count("made no progress for 1 s: it is killed")
    assert kept.count(f"ended with {-signal.SIGKILL};")


@pytest.mark.parametrize(
    "code",
    [
        f"{SPEAK} import time; [(s.send(b'WATCHDOG=1'), time.sleep(0.1)) for _ in range(600)]",
        f"{SPEAK} s.send(b'READY=1'); {HANG}",
        HANG,
    ],
    ids=["one that goes on", "one that only said it is ready", "one that never spoke"],
)
def test_a_watched_process_is_left_alone_while_it_speaks_and_another_always(
    keep: Callable[..., Watched], code: str
) -> None:
    kept = keep(f"print('here', flush=True); {code}", watchdog_s=1)
    kept.wait(lambda: kept.count("here"))
    until = time.monotonic() + 3  # three times what would have it killed

    kept.wait(lambda: time.monotonic() > until)

    assert kept.said[1:] == ["here"]


def test_a_silence_in_which_nobody_listened_is_not_held_against_a_process(tmp_path: Path) -> None:
    """A machine that wakes up finds all its processes alive and long silent."""
    said: list[bytes] = []
    code = f"{SPEAK} s.send(b'WATCHDOG=1'); print('here', flush=True); {HANG}"
    kept = Kept(f'{sys.executable} -c "{code}"', notify=tmp_path / "notify", watchdog_s=1.5, say=said.append)
    kept.start()
    try:
        _wait(lambda: b"here\n" in said)
        kept.look()
        time.sleep(2)

        kept.look()
        assert not any(b"no progress" in line for line in said)

        _wait(lambda: kept.look() or any(b"no progress" in line for line in said))
    finally:
        kept.end(signal.SIGKILL)
        kept.close()


def test_a_stop_waits_for_a_process_and_a_second_one_does_not(keep: Callable[..., Watched]) -> None:
    kept = keep(f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); {HANG}")
    kept.wait(lambda: kept.count("here"))

    kept.keeper.stop()
    assert kept.stop() < 5


def test_a_process_that_does_not_stop_in_time_is_killed(keep: Callable[..., Watched]) -> None:
    code = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); {HANG}"
    kept = keep(code, stop_s=1)
    kept.wait(lambda: kept.count("here"))

    assert 1 <= kept.stop() < 10
