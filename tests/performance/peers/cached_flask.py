"""The peer that Rollcall replaces, written cleanly: Flask, Flask-Caching in Redis, gunicorn. PEER_BODY is what it answers."""

import os
from pathlib import Path

from flask import Flask, Response
from flask_caching import Cache

app = Flask(__name__)
cache = Cache(
    app,
    config={"CACHE_TYPE": "RedisCache", "CACHE_REDIS_URL": os.environ["PEER_REDIS"], "CACHE_DEFAULT_TIMEOUT": 300},
)
_BODY = Path(os.environ["PEER_BODY"]).read_bytes()


@app.get("/api/summary")
@cache.cached(query_string=True)
def summary() -> Response:
    return Response(_BODY, content_type="application/json")


@app.get("/healthz")
def healthz() -> str:
    return "ok"
