"""The yardstick of the API: the same server and framework with the same answer as a constant, and nothing else."""

import os
from pathlib import Path

import falcon.asgi
from falcon.asgi import Request, Response

_BODY = Path(os.environ["BENCH_BODY"]).read_bytes()


class Constant:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.data = _BODY


def app() -> falcon.asgi.App:
    """Return the app; every address of the benchmark gives the same bytes."""
    made = falcon.asgi.App()
    for path in ("/api/summary", "/healthz"):
        made.add_route(path, Constant())
    return made
