"""The thread that hears purges, one per API process, started after the fork."""

import threading

from api.cache.tags import Purges
from pipeline.messages import listen_purges

STOP_S = 3.0


class Listener:
    """Keeps `purges` told of what other processes changed."""

    def __init__(self, broker_url: str, purges: Purges) -> None:
        self._url = broker_url
        self._purges = purges
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="purge-listener", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; one that is stuck in a dead connection is left to die with the process."""
        self._stop.set()
        self._thread.join(STOP_S)

    def _listen(self) -> None:
        purges = self._purges
        listen_purges(
            self._url,
            on_purge=lambda tags, seq: purges.purge(tags),
            on_connect=purges.connected,
            on_disconnect=purges.disconnected,
            stop=self._stop,
        )
