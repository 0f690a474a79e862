"""The report of `./dev bench` as a page: each chapter with its lines, their spread, and how cost grows with size."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from html import escape
from statistics import geometric_mean

from tests.performance import charts, page, spreads
from tests.performance.charts import Chart
from tests.performance.facts import Facts
from tests.performance.report import Chapter, Growth, Line, missed, number, sizes_of

_HOW_TO_READ = (
    "A line is the median of its rounds; the bar reaches from the least of them to the most, and what lies beyond a bound is hatched. "
    "A dot is a median that meets its bound or has none, a cross one that doesn't. A line with a bound has a scale of its own, "
    "from 0; those of a chapter without one share theirs where they have the same unit."
)


def of_bench(area: str, chapters: Sequence[Chapter], facts: Facts, *, began_at: float, is_quick: bool) -> str:
    """Return the page of an area."""
    failed = missed(chapters)
    bounded = [line for chapter in chapters for line in chapter.lines if line.is_met is not None]
    said = f"{len(failed)} of {len(bounded)} bounds missed" if failed else "every bound met"
    about = "ratios of things measured in turn in one run"
    if is_quick:
        about = "with --quick: to try it out, not to judge"
    return page.whole(
        f"Bench: {area}",
        page.verdict(not failed if bounded else None, said if bounded else "no bounds"),
        about,
        began_at,
        facts,
        [
            spreads.DEFINED,
            *(
                f'<p class="reason">Missed: {escape(one.name)}: {escape(_value(one))}, {one.bound}</p>'
                for one in failed
            ),
            *map(_chapter, chapters),
            f'<p class="soft">{_HOW_TO_READ}</p>',
        ],
    )


def _chapter(chapter: Chapter) -> str:
    words = {True: "met", False: "missed", None: ""}[chapter.is_met]
    verdict = page.verdict(chapter.is_met, words) if words else ""
    rows = "".join(_row(line, chapter) for line in chapter.lines)
    proof = f'<p class="proof">{escape(chapter.proof)}</p>' if chapter.proof else ""
    heads = "".join(f"<th>{head}</th>" for head in ("", "spread", "median", "least to most", "bound", "", "rounds"))
    return (
        f"<section><h2>{escape(chapter.title)} {verdict}</h2>"
        f'<div class="card"><table class="lines"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>{proof}</div>'
        f"{''.join(_growth(chapter.growth))}</section>"
    )


def _row(line: Line, chapter: Chapter) -> str:
    reach = "" if line.low is None or line.high is None else f"{number(line.low)} to {number(line.high)}"
    verdict = "" if line.is_met is None else page.verdict(line.is_met, "met" if line.is_met else "missed")
    rounds = escape(line.repeated) if line.is_steady is not False else f"<b>{escape(line.repeated)}</b>"
    cells = (
        ("what", escape(line.name)),
        ("picture", spreads.draw(line, chapter)),
        ("median", escape(_value(line))),
        ("least", reach),
        ("bound", line.bound),
        ("", verdict),
        ("rounds", rounds),
    )
    return "".join(["<tr>", *(f'<td class="{kind}">{text}</td>' for kind, text in cells), "</tr>"])


def _value(line: Line) -> str:
    return "" if line.value is None else f"{number(line.value)} {line.unit}".strip()


def _growth(growth: Sequence[Growth]) -> Iterator[str]:
    """Yield a picture for each unit, and the numbers."""
    if not growth:
        return
    by_unit: defaultdict[str, list[Growth]] = defaultdict(list)
    for one in growth:
        by_unit[one.unit].append(one)
    yield '<div class="pairs">'
    for unit, those in by_unit.items():
        lines = [line for n, one in enumerate(those) for line in _lines(one, 1 + n % 8)]
        yield charts.draw(Chart("By size", unit, lines, is_log=True, is_log_x=True, is_time=False, width=480))
    yield "</div>"
    sizes = sizes_of(growth)
    heads = ["", *(f"{size:,.0f}" for size in sizes), "unit", "exponent"]
    rows = [
        [one.name, *(number(at[size]) if size in at else "" for size in sizes), one.unit, f"{one.exponent:.2f}"]
        for one in growth
        for at in [dict(one.points)]
    ]
    yield page.table(heads, rows, numbers=[*range(1, len(sizes) + 1), len(heads) - 1])
    yield '<p class="soft">Both scales are in powers of ten. The exponent is that of the dashed line: 0 is flat, 1 grows in proportion.</p>'


def _lines(growth: Growth, colour: int) -> Iterator[charts.Line]:
    """Yield what was measured, and the power law through it as a dashed line."""
    name = f"{growth.name}: {growth.exponent:.2f}"
    yield charts.Line(name, growth.points, colour)
    positive = [(size, cost) for size, cost in growth.points if cost > 0]
    if len(positive) > 1:
        yield charts.Line("", _fitted(positive, growth.exponent), colour, is_dashed=True)


def _fitted(points: Sequence[tuple[float, float]], exponent: float) -> list[tuple[float, float | None]]:
    sizes, costs = zip(*points, strict=True)
    middle_size, middle_cost = geometric_mean(sizes), geometric_mean(costs)
    return [(size, middle_cost * (size / middle_size) ** exponent) for size in (min(sizes), max(sizes))]
