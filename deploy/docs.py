"""Writes the tables in docs that follow from the code: `python -m deploy.docs`.

Each stands between two comments, so that what people write around it stays.
"""

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from db.health import Alike
from pipeline import addresses, platforms, scaling
from pipeline.estimate_command import DAILY, cells
from pipeline.scaling import Scale
from pipeline.settings import Settings, load_settings

DOCS = Path(__file__).resolve().parent.parent / "docs"
_LIST = Path(__file__).with_name("accounts") / "hhs.csv"
_SIZES = (1_000, 10_000, 100_000, 1_000_000)


def page(path: Path) -> str:
    """Return a page with its tables as they should be."""
    text = path.read_text()
    for name, lines in _TABLES.items():
        begin, end = f"<!-- {name}: written by python -m deploy.docs -->\n", f"<!-- end of {name} -->\n"
        if begin in text:
            before, after = text.split(begin)
            table = "\n".join(lines())
            text = f"{before}{begin}\n{table}\n\n{end}{after.split(end)[1]}"
    return text


def _settings() -> Iterator[str]:
    """Yield every setting with its default and meaning."""
    rows = []
    for name, field in Settings.model_fields.items():
        if not field.exclude:
            default = "–" if field.default in (None, "") else f"`{field.default}`"
            rows.append(
                (f"`{name.upper()}`", "required" if field.is_required() else default, field.description or "")
            )
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
        "memory of PostgreSQL",
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
        f"{one.memory_gb:,.2f} GB",
        f"{one.disk_gb + one.disk_gb_a_year:,.2f} GB",
        f"${one.profiles_usd:,.0f}",
        f"${one.posts_usd:,.0f}",
    )


def _million() -> Iterator[str]:
    """Yield a row per platform of the largest size."""
    return _table(DAILY, (cells(one) for one in _grown(_SIZES[-1]).demands))


def _costs() -> Iterator[str]:
    """Yield what is reckoned with."""
    linear = {
        "a worker, ms": (scaling.WORKER_S, 1_000),
        "PostgreSQL, ms": (scaling.POSTGRES_S, 1_000),
        "planner, Redis, recorder, ms": (scaling.OTHERS_S, 1_000),
        "a kept job, bytes": (scaling.JOB_BYTES, 1),
    }
    rows = [(what, f"{c.per_call * unit:g}", f"{c.per_account * unit:g}") for what, (c, unit) in linear.items()]
    kept = {"numbers of a day": scaling.SNAPSHOT_BYTES, "a post": scaling.POST_BYTES, "itself": scaling.ACCOUNT_BYTES}
    rows += [(f"{what}, bytes", "–", f"{size:,}") for what, size in kept.items()]
    return _table(("costs", "a call", "an account"), rows)


def _grown(size: int) -> Scale:
    return scaling.scale(scaling.grown(listed(), size), _published(), platforms.load())


def listed() -> list[Alike]:
    """Return the accounts of the shipped list, by platform."""
    known = platforms.load()
    found: Counter[str] = Counter()
    with _LIST.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            with suppress(addresses.Unclear):  # a person's profile, which the import rejects
                found[addresses.of_url(row["url"], known).platform] += 1
    return [Alike(name, "profiles", "", None, count) for name, count in sorted(found.items())]


def _published() -> Settings:
    """Return the settings that nobody has changed."""
    return load_settings({"DATABASE_URL": "postgresql://", "REDIS_URL": "redis://"}, env_files=())


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield f"| {' | '.join(row)} |"


_TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "settings": _settings,
    "sizes": _sizes,
    "a million": _million,
    "costs": _costs,
}


if __name__ == "__main__":
    for one in sorted(DOCS.glob("*.md")):
        one.write_text(page(one))
