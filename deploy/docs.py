"""Writes the tables in docs that follow from the code: `python -m deploy.docs`.

Each stands between two comments, so that what people write around it stays.
"""

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from pydantic import SecretStr

from db.health import Alike
from pipeline import addresses, platforms, scaling
from pipeline.estimate_command import DAILY, cells
from pipeline.scaling import Scale
from pipeline.settings import Settings

DOCS = Path(__file__).resolve().parent.parent / "docs"
_LIST = Path(__file__).with_name("accounts") / "hhs.csv"
_SIZES = (1_000, 10_000, 100_000, 1_000_000)


def page(path: Path) -> str:
    """Return a page with its tables as they should be."""
    text = path.read_text()
    for name, lines in _TABLES.items():
        begin, end = f"<!-- {name}: written by python -m deploy.docs -->\n", f"<!-- end of {name} -->\n"
        text = re.sub(
            f"(?<={re.escape(begin)}).*?(?={re.escape(end)})",
            lambda _, lines=lines: "\n" + "\n".join(lines()) + "\n\n",
            text,
            flags=re.DOTALL,
        )
    return text


def _settings() -> Iterator[str]:
    """Yield every setting with its default and meaning."""
    rows = []
    for name, field in Settings.model_fields.items():
        if not field.exclude:
            default = "–" if field.default in (None, "") else f"`{field.default}`"
            rows.append((f"`{name.upper()}`", "required" if field.is_required() else default, field.description or ""))
    return _table(("setting", "default", "meaning"), rows)


def _sizes() -> Iterator[str]:
    """Yield a row per size of the shipped list, as if it had grown."""
    columns = (
        "accounts",
        "calls a day",
        "sets of credentials",
        "processors: workers",
        "PostgreSQL",
        "the rest",
        "disk after a year",
        "money a day: profiles",
        "posts, at most",
    )
    return _table(columns, (_size(_grown(size)) for size in _SIZES))


def _size(one: Scale) -> tuple[str, ...]:
    more = [f"{d.platform} {d.credentials:,}" for d in one.demands if d.credentials > 1]
    return (
        f"{one.accounts:,}",
        f"{one.calls:,}",
        ", ".join(more) or "one each",
        f"{one.worker_cores:.3f}",
        f"{one.postgres_cores:.3f}",
        f"{one.other_cores:.3f}",
        f"{one.disk_gb + one.disk_gb_a_year:,.2f} GB",
        f"${one.profiles_usd:,.0f}",
        f"${one.posts_usd:,.0f}",
    )


def _million() -> Iterator[str]:
    """Yield a row per platform of the largest size."""
    return _table(DAILY, (cells(one) for one in _grown(_SIZES[-1]).demands))


def _grown(size: int) -> Scale:
    known = platforms.load()
    with _LIST.open(encoding="utf-8") as file:
        listed = Counter(addresses.platform_called(row["platform"], known).name for row in csv.DictReader(file))
    mixed = [Alike(name, "profiles", "", None, count) for name, count in sorted(listed.items())]
    return scaling.scale(scaling.grown(mixed, size), _published(), known)


def _published() -> Settings:
    """Return the settings that nobody has changed."""
    return Settings(database_url=SecretStr("postgresql://"), redis_url=SecretStr("redis://"))


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield f"| {' | '.join(row)} |"


_TABLES: dict[str, Callable[[], Iterator[str]]] = {"settings": _settings, "sizes": _sizes, "a million": _million}


if __name__ == "__main__":
    for one in sorted(DOCS.glob("*.md")):
        one.write_text(page(one))
