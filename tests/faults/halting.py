"""An app for gunicorn that stops in the middle of an answer, until the file that HALTED_UNTIL names is there."""

import asyncio
import os
from pathlib import Path
from typing import Any

_READY = b'{"purge_listener":"ok"}'


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    body = _READY if scope["path"] == "/readyz" else b"two halves"
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if scope["path"] == "/halting":
        await send({"type": "http.response.body", "body": body[:3], "more_body": True})
        while not Path(os.environ["HALTED_UNTIL"]).exists():
            await asyncio.sleep(0.01)
        body = body[3:]
    await send({"type": "http.response.body", "body": body})
