"""FastAPI as its documentation has it: models for answers, blocking reads in its pool of threads. PEER_BODY is the constant."""

import os
from datetime import date, datetime
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from pydantic import BaseModel

from tests.performance.peers import summary

_BODY = Path(os.environ["PEER_BODY"]).read_bytes()


class Item(BaseModel):
    account_key: int
    platform: str
    handle: str
    display_name: str | None
    org_name: str | None
    is_core_account: bool
    account_url: str
    followers: int | None
    following: int | None
    posts: int | None
    engagement: int | None
    delta_1d: int | None
    delta_7d: int | None
    delta_30d: int | None
    growth_7d_pct: float | None
    snapshot_date: date | None
    captured_at: datetime | None
    status: str
    reason: str | None
    precision: str | None
    source: str | None


class Page(BaseModel):
    items: list[Item]
    next_after: int | None


app = FastAPI()


@app.get("/api/summary/now", response_model=Page)
def now(after: int = 0, per_page: int = 50) -> dict[str, Any]:
    with summary.Sessions() as session:
        items = [dict(row) for row in summary.page(session, after, per_page)]
    return {"items": items, "next_after": items[-1]["account_key"] if items else None}


@app.get("/api/summary")
async def constant() -> Response:
    return Response(_BODY, media_type="application/json")


@app.get("/healthz")
async def healthz() -> str:
    return "ok"
