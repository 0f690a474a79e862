"""What the simulator saw, as a page for people."""

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Rollcall's simulator</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem; }}
table {{ border-collapse: collapse; margin-bottom: 2rem; }}
th, td {{ border-bottom: 1px solid #ddd; padding: .2rem 1rem .2rem 0; text-align: left; font-variant-numeric: tabular-nums; }}
</style>
</head>
<body>
<h1>What the simulator saw</h1>
{tables}
<p>For programs: <a href="state">state</a>. How to give orders: docs/simulator.md.</p>
</body>
</html>
"""


def page(state: Mapping[str, Any]) -> str:
    """Return the page of a state as `/_simulator/state` gives it."""
    tables = (
        _table("Calls", ("platform", "endpoint", "calls", "accounts per call", "most at once"), _calls(state)),
        _table("Violations", ("platform", "calls while nothing was left"), state["violations"].items()),
        _table("Limits in use", ("platform", "limit of", "calls", "left", "more at"), _limits(state)),
    )
    return _PAGE.format(tables="\n".join(tables))


def _calls(state: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    for platform, requests in state["requests"].items():
        for endpoint, count in requests.items():
            batch = state["batches"][platform][endpoint]
            yield platform, endpoint, count, f"{batch['mean']:.1f}", batch["largest"]


def _limits(state: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    for platform, windows in state["limits"].items():
        for bucket, window in windows.items():
            yield platform, bucket, window["limit"], window["remaining"], window["resets_at"]


def _table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "\n".join(f"<tr>{''.join(f'<td>{escape(str(value))}</td>' for value in row)}</tr>" for row in rows)
    return f"<h2>{escape(title)}</h2>\n<table>\n<tr>{head}</tr>\n{body}\n</table>"
