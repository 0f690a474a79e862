"""The reports of a load and of a soak as pages."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from html import escape

from tests.performance import charts, page
from tests.performance.charts import Chart, Line, Mark
from tests.performance.facts import Facts
from tests.performance.load.checks import KEEPERS, Blow, clock, kind_of
from tests.performance.load.generator import Second
from tests.performance.load.phases import Load, hit_rate_pct
from tests.performance.load.site import Sample
from tests.performance.load.soak import Soak

_LEVELS = ("l1", "l2", "stale", "miss")


def of_load(load: Load, facts: Facts) -> str:
    """Return the page of a load."""
    seconds = [second for phase in load.phases for second in phase.offered.seconds]
    labelled = [
        Mark(
            one.began_at - load.began_at, one.ended_at - load.began_at, one.said, one.name, is_tinted=bool(number % 2)
        )
        for number, one in enumerate(load.phases)
    ]
    return page.whole(
        "Load",
        page.verdict(not load.missed, "everything held" if not load.missed else "not everything held"),
        f"{sum(load.accounts.values()):,} accounts, {load.rate:g} requests a second, seed {load.seed}",
        load.began_at,
        facts,
        [
            *(f'<p class="reason">{escape(one)}</p>' for one in load.missed),
            _phases(load),
            "<h2>Over time</h2>",
            charts.draw(_latency(seconds, load.began_at, labelled)),
            charts.draw(_rates(seconds, load.began_at, labelled)),
            charts.draw(_levels(seconds, load.began_at, labelled)),
            charts.draw(_readings(load, labelled)),
            "<h2>The knee</h2>",
            _knee(load),
            "<h2>Processor time</h2>",
            _cores(load),
        ],
    )


def of_soak(soak: Soak, facts: Facts) -> str:
    """Return the page of a soak."""
    seconds = soak.offered.seconds
    marks = _blows(soak.blows, soak.began_at)
    is_met = all(verdict.is_met is not False for verdict in soak.verdicts)
    return page.whole(
        "Soak",
        page.verdict(is_met, "every promise held" if is_met else "a promise didn't hold"),
        f"{soak.minutes:g} minutes, {sum(soak.accounts.values()):,} accounts, {soak.rate:g} requests a second, seed {soak.seed}",
        soak.began_at,
        facts,
        [
            _verdicts(soak),
            "<h2>Requests</h2>",
            charts.draw(_latency(seconds, soak.began_at, marks)),
            charts.draw(_failures(soak, marks)),
            charts.draw(_levels(seconds, soak.began_at, marks)),
            "<h2>Readings</h2>",
            charts.draw(_readings(soak, marks)),
            "<h2>Memory</h2>",
            f'<div class="several">{"".join(map(charts.draw, _memory(soak.samples, soak.began_at)))}</div>',
            "<h2>What was done</h2>",
            page.table(
                ["after", "", "", "back after"],
                [[clock(blow.at - soak.began_at), blow.name, blow.struck, _back(blow)] for blow in soak.blows],
                numbers=(3,),
            ),
        ],
    )


def _verdicts(soak: Soak) -> str:
    rows = "".join(
        f"<tr><td>{page.verdict(one.is_met)}</td><td>{escape(one.name)}</td><td>{escape(one.said)}"
        + "".join(f'<span class="reason">{escape(reason)}</span>' for reason in one.reasons)
        + "</td></tr>"
        for one in soak.verdicts
    )
    return f'<div class="card"><table><tbody>{rows}</tbody></table></div>'


def _phases(load: Load) -> str:
    heads = ["phase", "asked", "failed", "p50", "p90", "p99", "p99.9", "most, ms", "hits", "read", "sent late, ms"]
    rows = [
        [
            phase.name,
            f"{phase.offered.asked:,}",
            f"{phase.failed:,}",
            *(as_ms(value) for value in (t.p50, t.p90, t.p99, t.p999, t.most)),
            _pct(phase.hit_rate_pct),
            f"{phase.read:,}",
            as_ms(phase.offered.late_p99_ms),
        ]
        for phase in load.phases
        for t in [phase.offered.times]
    ]
    note = "Milliseconds count from the moment that a request was to leave. What was sent late (p99) is the client's doing, and stands in every time."
    return page.table(heads, rows, numbers=range(1, len(heads))) + f'<p class="soft">{note}</p>'


def _knee(load: Load) -> str:
    steps = sorted(load.knee.steps, key=lambda step: step.rate)
    held, left = load.knee.held, load.knee.left
    if left is None:
        said = f"Not found up to {steps[-1].rate:,.0f} a second." if steps else "Not looked for."
    else:
        said = f"Between {held or 0:,.0f} and {left:,.0f} requests a second."
    if load.knee.is_of_client:
        said += " The client was busy with itself by then: the server's own knee may lie further on."
    lines = [
        Line("p50", [(step.rate, step.times.p50) for step in steps], 1),
        Line("p99", [(step.rate, step.times.p99) for step in steps], 2),
    ]
    marks = [Mark(held or 0, left, said, "knee")] if left else []
    chart = Chart("Time by rate", "ms", lines, marks, is_log=True, is_time=False, x_unit="a second")
    heads = ["a second", "answered", "failed", "p50", "p99, ms", "client's core", ""]
    rows = [
        [
            f"{step.rate:,.0f}",
            f"{step.answered_per_s:,.0f}",
            f"{step.failed:,}",
            as_ms(step.times.p50),
            as_ms(step.times.p99),
            f"{step.own_cpu:.0%}",
            "too much" if step.left else "held",
        ]
        for step in steps
    ]
    return f"<p>{escape(said)}</p>" + charts.draw(chart) + page.table(heads, rows, numbers=range(6))


def _cores(load: Load) -> str:
    kinds = sorted({kind for phase in load.phases for kind in phase.cores})
    rows = [[phase.name, *(f"{phase.cores.get(kind, 0):.2f}" for kind in kinds)] for phase in load.phases]
    return page.table(["cores", *kinds], rows, numbers=range(1, len(kinds) + 1))


def _latency(seconds: Sequence[Second], began_at: float, marks: Sequence[Mark]) -> Chart:
    def line(name: str, colour: int) -> Line:
        return Line(name, [(s.at - began_at, getattr(s.times, name)) for s in seconds], colour)

    return Chart(
        "Time of an answer", "ms", [line("most", 8), line("p99", 2), line("p50", 1)], marks, is_log=True, height=280
    )


def _rates(seconds: Sequence[Second], began_at: float, marks: Sequence[Mark]) -> Chart:
    asked = [(s.at - began_at, float(s.asked)) for s in seconds]
    failed = [(s.at - began_at, float(sum(s.failed.values()))) for s in seconds]
    return Chart("Requests", "a second", [Line("asked", asked, 1), Line("failed", failed, 2)], marks, height=180)


def _failures(soak: Soak, marks: Sequence[Mark]) -> Chart:
    found: defaultdict[str, list[tuple[float, float | None]]] = defaultdict(list)
    for second in soak.offered.seconds:
        for what, count in second.failed.items():
            found[kind_of(what)].append((second.at - soak.began_at, float(count)))
    last = soak.offered.seconds[-1].at - soak.began_at if soak.offered.seconds else 1.0
    lines = [Line("failed", [(0.0, 0.0), (last, 0.0)], 8)]
    lines += [
        Line(kind, points, colour, is_bar=True) for colour, (kind, points) in enumerate(sorted(found.items()), 2)
    ]
    return Chart("Requests that failed", "a second", lines, marks, height=180)


def _levels(seconds: Sequence[Second], began_at: float, marks: Sequence[Mark]) -> Chart:
    points = [(s.at - began_at, hit_rate_pct(s.levels)) for s in seconds]
    return Chart(
        "Answers from a cache",
        "% of those that can be kept",
        [Line("hit rate", points, 3)],
        marks,
        height=180,
        most=100,
    )


def _readings(run: Load | Soak, marks: Sequence[Mark]) -> Chart:
    first = run.progress[0].told if run.progress else 0
    base = next((one.kept for one in run.progress if one.kept is not None), 0)
    told = [(one.at - run.began_at, float(one.told - first)) for one in run.progress]
    kept = [(one.at - run.began_at, None if one.kept is None else float(one.kept - base)) for one in run.progress]
    return Chart(
        "Readings", "so far", [Line("told by the platforms", told, 2), Line("kept", kept, 1)], marks, height=220
    )


def _memory(samples: Sequence[Sample], began_at: float) -> Iterator[Chart]:
    """Yield a small chart for each kind of process, with a line for every life of one."""
    by_kind: defaultdict[str, defaultdict[int, list[tuple[float, float | None]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for one in samples:
        by_kind[one.kind][one.pid].append((one.at - began_at, one.rss_bytes / 2**20))
    for kind, lives in sorted(by_kind.items(), key=lambda item: (item[0] in KEEPERS, item[0])):
        lines = [Line(str(pid), points, 1 + number % 7) for number, (pid, points) in enumerate(lives.items())]
        yield Chart(kind, "MiB", lines, width=340, height=160, has_names=False)


def _blows(blows: Sequence[Blow], began_at: float) -> list[Mark]:
    return [
        Mark(blow.at - began_at, blow.back_at - began_at, f"{clock(blow.at - began_at)} {blow.name} ({blow.struck})")
        for blow in blows
    ]


def _back(blow: Blow) -> str:
    """Say how long it was away; of a process that no request needs nobody waits for the next."""
    away_s = blow.back_at - blow.at
    return f"{away_s:.1f} s" if away_s > 0.05 else ""


def as_ms(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _pct(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} %"
