"""A report as a mail: subject, plain text, and HTML with its pictures, which say the same."""

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from pipeline.report import pictures, words
from pipeline.report.facts import Facts, Trend
from pipeline.report.pictures import Size
from pipeline.report.written import Written

_TEMPLATES = Path(__file__).parent / "templates"


def render(facts: Facts) -> Written:
    """Write a report."""
    images: dict[str, bytes] = {}

    def draw(name: str, trend: Trend | None, size: Size) -> str | None:
        """Draw one picture; return its Content-ID, None where there is nothing to draw."""
        png = pictures.trend(trend.first, trend.followers, size) if trend else None
        if png is None:
            return None
        images[f"{name}@rollcall"] = png
        return f"{name}@rollcall"

    shown = {
        "facts": facts,
        "say": words,
        "trend_picture": draw("trend", facts.trend, pictures.LARGE),
        "platform_pictures": [
            draw(f"platform-{number}", line.trend, pictures.SMALL) for number, line in enumerate(facts.platforms, 1)
        ],
        "large_size": pictures.LARGE,
        "small_size": pictures.SMALL,
    }
    return Written(
        subject=words.subject(facts),
        text=_templates().get_template("report.txt").render(shown),
        html=_templates().get_template("report.html").render(shown),
        images=images,
    )


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
