"""A platform's clients in one process: all share its connections, those of one set of credentials its token too."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Protocol

from pipeline.platforms import Platform
from pipeline.records import Page
from pipeline.settings import Credentials, Settings
from workers.deadline import Pool, make_pool
from workers.http import HttpClient
from workers.reset import Allowance
from workers.tokens import TokenStore


class Maker(Protocol):
    """Makes a client that tells `heed` what rate headers say, and shows `look` each answer."""

    def __call__(
        self, heed: Callable[[Allowance], None], look: Callable[[Page], None] = lambda page: None
    ) -> HttpClient: ...


def make_clients(settings: Settings, platform: Platform) -> Mapping[str, Maker]:
    """Return a maker of clients for each set of credentials, by its label.

    Where credentials are missing it is one without any, whose clients say what they need.
    """
    proxy = settings.https_proxy
    pool = make_pool(
        https_proxy=proxy.get_secret_value() if proxy else None,
        no_proxy=settings.no_proxy,
        public_only=settings.is_public_only(platform),
    )
    sets = settings.credentials(platform) or (Credentials("1", {}),)
    return {one.label: _maker(settings, platform, one, pool) for one in sets}


def _maker(settings: Settings, platform: Platform, credentials: Credentials, pool: Pool) -> Maker:
    tokens = TokenStore()
    user_agent = settings.user_agent  # asked for once: it reads the package's own metadata

    def client(heed: Callable[[Allowance], None], look: Callable[[Page], None] = lambda page: None) -> HttpClient:
        return HttpClient(
            platform,
            pool=pool,
            base_url=settings.base_url(platform),
            credentials=credentials.values,
            label=credentials.label,
            deadline_s=settings.http_deadline_s,
            user_agent=user_agent,
            now=lambda: datetime.now(UTC),
            heed=heed,
            tokens=tokens,
            look=look,
        )

    return client
