# ruff: noqa: N999  # the name that gunicorn gives its configuration
"""How gunicorn runs the API: addresses and processes from the settings, its own asyncio worker."""

from typing import Any

from gunicorn.glogging import Logger

from pipeline import log
from pipeline.settings import load_settings

_settings = load_settings()


class OneLog(Logger):  # type: ignore[misc]  # gunicorn has no types
    """Sends what gunicorn says into the log of everything else."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        log.configure(_settings, "api")
        self.error_log.handlers.clear()
        self.error_log.propagate = True


_host = f"[{_settings.bind}]" if ":" in _settings.bind else _settings.bind

bind = f"{_host}:{_settings.port}"
workers = _settings.web_concurrency
worker_class = "asgi"
proc_name = "rollcall-api"
# A worker whose loop stands still for this long is replaced.
timeout = 30
# Requests in hand are finished for so long after SIGTERM. Idle keep-alive connections are waited for as well, so
# it is also how long a stop takes while browsers are connected.
graceful_timeout = 3
keepalive = 5
# Its socket would lie under the home directory, one for all gunicorns of a user.
control_socket_disable = True
logger_class = OneLog
# Each request has its closing line from the API itself.
accesslog = None
