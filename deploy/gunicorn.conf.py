# ruff: noqa: N999  # the name that gunicorn gives its configuration
"""How gunicorn runs the API: addresses and processes from the settings, its own asyncio worker."""

import gc
import math
from typing import Any

from gunicorn.glogging import Logger

from deploy.gunicorn_worker import CLOSING_S
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


def post_worker_init(worker: Any) -> None:
    """Let the collector leave alone what a worker is made of: to look through it again and again is a tenth of a hit.

    An answer from the database makes hundreds of objects, and hardly ever a circle of them: with Python's own 700, looking
    for circles is a tenth of what it costs.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


_host = f"[{_settings.bind}]" if ":" in _settings.bind else _settings.bind

bind = f"{_host}:{_settings.port}"
workers = _settings.web_concurrency
worker_class = "deploy.gunicorn_worker.Worker"
# Of one worker; more are told to come back.
worker_connections = 1000
proc_name = "rollcall-api"
# A worker whose loop stands still for this long is replaced; a client that takes nothing of its answer for so long is left.
timeout = 30
# Gunicorn's most, in bytes: two texts of 200 characters each in a query take 4,800, percent-encoded.
limit_request_line = 8190
# How long a connection may lie idle, and how long the headers of a request may take.
keepalive = 5
# Requests in hand are finished for so long after SIGTERM or SIGHUP. Kept connections end with their next answer or, idle,
# by `keepalive`, as they always do: none is closed while its next request may be on its way. So a stop takes five seconds
# where browsers are connected, and longer only for what takes longer.
graceful_timeout = math.ceil(_settings.api_timeout_s) + keepalive + CLOSING_S
# Beyond these a request is a 414 or 431. Ours have some ten headers, and cursors of some hundred bytes.
limit_request_line = 8190
limit_request_fields = 64
limit_request_field_size = 8190
# Whose X-Forwarded-… and SCRIPT_NAME count; the API itself asks TRUSTED_PROXIES too.
forwarded_allow_ips = ",".join(map(str, _settings.proxies))
# Its socket would lie under the home directory, one for all gunicorns of a user.
control_socket_disable = True
logger_class = OneLog
# Each request has its closing line from the API itself.
accesslog = None
