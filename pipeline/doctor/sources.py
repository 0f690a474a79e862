"""The platforms: a reader, credentials that are taken, an address."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from urllib.parse import urlsplit

from db import pauses
from db.engine import Connection
from db.pauses import Pause
from pipeline.doctor.finding import Finding
from pipeline.platforms import Platform
from pipeline.settings import Settings


def examine(
    conn: Connection, counts: Mapping[str, int], settings: Settings, platforms: Mapping[str, Platform]
) -> Iterator[Finding]:
    """Yield how each platform with accounts stands; `counts` are those accounts."""
    refused = [pause for pause in pauses.standing(conn, datetime.now(UTC)) if pause.result == "blocked"]
    for name, accounts in counts.items():
        yield _platform(name, accounts, settings, platforms.get(name))
        for pause in (pause for pause in refused if pause.platform == name and name in platforms):
            yield _refused(pause, platforms[name])


def _platform(name: str, accounts: int, settings: Settings, platform: Platform | None) -> Finding:
    count = f"{accounts} account{'s' if accounts > 1 else ''}"
    if platform is None:
        return Finding("fail", name, f"{count}, but nothing installed knows this platform", "install it")
    if not platform.calls:
        return Finding("warn", name, f"{count}, no reader yet", "they stay in the list without numbers")
    if lacking := settings.lacks(platform):
        return Finding("warn", name, f"{count} waiting for a credential", f"set {' and '.join(lacking)}")
    # The host alone: an address may carry a proxy's password.
    return Finding("ok", name, f"{count}, read from {urlsplit(settings.base_url(platform)).hostname}")


def _refused(pause: Pause, platform: Platform) -> Finding:
    """Say of a credential that the platform doesn't take it any more, or not for this."""
    suffix = "" if pause.credential == "1" else f"_{pause.credential}"
    names = " and ".join(name + suffix for name in platform.needs or platform.instead)
    mend = f"renew {names}, then restart its workers" if names else "look at the reason: no credential is needed"
    return Finding("warn", pause.platform, f"refuses credential {pause.credential}: {pause.reason}", mend)


def base_urls(settings: Settings, platforms: Mapping[str, Platform]) -> Iterator[Finding]:
    """Yield the base URLs that can't be right."""
    for platform in platforms.values():
        parts = urlsplit(settings.base_url(platform))
        if parts.scheme not in ("http", "https") or not parts.netloc:
            setting = "SIMULATOR_URL" if settings.simulator_url else f"{platform.name.upper()}_BASE_URL"
            yield Finding("fail", platform.name, f"{setting} is not an address", f"write {setting} as https://host")
