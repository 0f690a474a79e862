"""What a day of the account list costs, where platforms charge."""

from collections.abc import Collection, Mapping, Sequence

from db.health import Alike
from pipeline.estimate import unreadable
from pipeline.platforms import Platform
from pipeline.settings import Settings
from pipeline.terms import terms


def charging(platforms: Mapping[str, Platform], settings: Settings) -> Collection[str]:
    """Return the platforms that take money for what is read of them now."""
    return [
        name
        for name, platform in platforms.items()
        if unreadable(platform, settings) is None and any(call.price_usd for call in platform.calls.values())
    ]


def usd_a_day(accounts: Sequence[Alike], settings: Settings, platforms: Mapping[str, Platform]) -> dict[str, float]:
    """Return by platform what reading these accounts in their intervals costs; posts are the most that they can be."""
    return {
        name: sum(
            call.usd_a_day
            for call in terms(platforms[name], [one for one in accounts if one.platform == name], settings).calls
        )
        for name in {one.platform for one in accounts}
    }
