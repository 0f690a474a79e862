"""The thread that hears purges, one per API process, started after the fork."""

import threading
from collections.abc import Callable, Sequence

from api.cache.tags import Purges
from pipeline.messages import listen_purges

STOP_S = 3.0


class Listener:
    """Keeps `purges` told of what other processes changed; `heard` is called after each, in its thread."""

    def __init__(self, broker_url: str, purges: Purges, heard: Callable[[], None]) -> None:
        self._url = broker_url
        self._purges = purges
        self._heard = heard
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="purge-listener", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; one that is stuck in a dead connection is left to die with the process."""
        self._stop.set()
        self._thread.join(STOP_S)

    def _listen(self) -> None:
        listen_purges(
            self._url,
            on_purge=self._purge,
            on_connect=self._purges.connected,
            on_disconnect=self._purges.disconnected,
            stop=self._stop,
        )

    def _purge(self, tags: Sequence[str], seq: int | None) -> None:
        self._purges.purge(tags)
        self._heard()
