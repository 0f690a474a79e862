"""Small builders that tests share."""

import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from pipeline.settings import Settings, load_settings

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def settings(database_url: str, redis_url: str, **environ: str) -> Settings:
    """Return settings for a test: only what is given here, nothing of the environment or a `.env` file."""
    given: Mapping[str, str] = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, **environ}
    return load_settings(given, env_files=())


def job_ids() -> Callable[[], str]:
    """Return a maker of new job ids."""
    return lambda: str(uuid.uuid4())
