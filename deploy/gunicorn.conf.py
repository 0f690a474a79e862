# ruff: noqa: N999  # the name that gunicorn gives its configuration
"""How gunicorn runs the API: addresses and processes from the settings, its own asyncio worker."""

from pipeline.settings import load_settings

_settings = load_settings()
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
# Each request has its closing line from the API itself.
accesslog = None
logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s [%(levelname)s] gunicorn %(message)s"}},
    "handlers": {"out": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "plain"}},
    "loggers": {"gunicorn.error": {"level": _settings.log_level.upper(), "handlers": ["out"], "propagate": False}},
}
