"""What Rollcall replaces, written cleanly: Flask, Flask-Caching in Redis, Flask-Compress, SQLAlchemy, gunicorn."""

import os
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from flask import Flask, Response, jsonify, request
from flask.json.provider import DefaultJSONProvider
from flask_caching import Cache
from flask_compress import Compress

from tests.performance.peers import summary


class Json(DefaultJSONProvider):
    sort_keys = False

    @staticmethod
    def default(value: Any) -> Any:
        """Write times as the API does; Flask's own form is that of HTTP's headers."""
        if isinstance(value, datetime):
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        if isinstance(value, date):
            return value.isoformat()
        if isinstance(value, Decimal):
            return float(value)
        return DefaultJSONProvider.default(value)


app = Flask(__name__)
app.json = Json(app)
app.config.update(
    CACHE_TYPE="RedisCache",
    CACHE_REDIS_URL=os.environ["PEER_REDIS"],
    CACHE_DEFAULT_TIMEOUT=300,
    # What was compressed once is kept, too; without this each hit is compressed anew.
    COMPRESS_CACHE_KEY=lambda asked: asked.full_path,
    COMPRESS_CACHE_BACKEND=lambda: cache,
)
cache = Cache(app)
Compress(app)


@app.get("/api/summary")
@cache.cached(query_string=True)
def kept() -> Response:
    return answer()


@app.get("/api/summary/now")
def answer() -> Response:
    after, per_page = request.args.get("after", 0, type=int), request.args.get("per_page", 50, type=int)
    with summary.Sessions() as session:
        items = [dict(row) for row in summary.page(session, after, per_page)]
    return jsonify(items=items, next_after=items[-1]["account_key"] if items else None)


@app.get("/healthz")
def healthz() -> str:
    return "ok"
