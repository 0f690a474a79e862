"""What every report's page is made of: one that needs nothing else, no server and no network, light and dark."""

import time
from collections.abc import Sequence
from html import escape
from pathlib import Path

from tests.performance.facts import Facts

_HERE = Path(__file__).parent


def whole(title: str, verdict: str, said: str, began_at: float, facts: Facts, parts: Sequence[str]) -> str:
    """Return the page: what was measured, when and on what machine, then its parts, which are HTML."""
    day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(began_at))
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Rollcall: {escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{(_HERE / 'page.css').read_text()}</style></head><body><main>"
        f'<h1>{escape(title)} {verdict}</h1><p class="soft">{escape(said)} · {day}<br>{escape(facts.line)}</p>'
        f"{''.join(parts)}</main><script>{(_HERE / 'page.js').read_text()}</script></body></html>\n"
    )


def verdict(is_met: bool | None, said: str = "") -> str:
    kind, usual = {True: ("yes", "held"), False: ("no", "broken"), None: ("open", "not judged")}[is_met]
    return f'<span class="verdict {kind}">{escape(said or usual)}</span>'


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Return a table of texts; `numbers` are the places of columns that stand to the right."""

    def cell(tag: str, place: int, text: str) -> str:
        return f"<{tag}{' class=number' if place in numbers else ''}>{escape(text)}</{tag}>"

    head = "".join(cell("th", *one) for one in enumerate(heads))
    body = "".join(f"<tr>{''.join(cell('td', *one) for one in enumerate(row))}</tr>" for row in rows)
    return f'<div class="card"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
