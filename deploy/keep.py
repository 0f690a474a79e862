"""Keep one process running: `python -m deploy.keep COMMAND…` starts it again when it dies.

For the Procfile: a process manager of that kind ends everything when one process ends. Under systemd this is
`Restart=always`.
"""

import signal
import subprocess
import sys
import threading
import time

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0
# A process that lived this long did start: the next wait begins from the first again.
GOOD_S = 60.0


def main(command: list[str]) -> int:
    stopping = threading.Event()
    child: subprocess.Popen[bytes] | None = None

    def stop(*_: object) -> None:
        stopping.set()
        if child is not None:
            child.terminate()  # a signal to the whole group reaches it twice, which does no harm

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    wait_s = FIRST_WAIT_S
    while not stopping.is_set():
        began = time.monotonic()
        child = subprocess.Popen(command)
        if stopping.is_set():  # asked to stop while it was being started
            child.terminate()
        code = child.wait()
        if stopping.is_set():
            return code
        wait_s = FIRST_WAIT_S if time.monotonic() - began > GOOD_S else min(wait_s * 2, LONGEST_WAIT_S)
        print(f"{' '.join(command)} ended with {code}; starting it again in {wait_s:g} s", flush=True)
        stopping.wait(wait_s)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
