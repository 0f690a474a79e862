import re
import shutil
from pathlib import Path

import pytest

from api.dashboard import assets, look
from api.dashboard.look import change, count, web


def test_an_unknown_number_is_a_dash_and_never_a_zero() -> None:
    assert (count(None), count(0), count(1234567)) == ("–", "0", "1,234,567")
    assert (change(None), change(0), change(1234), change(-1234)) == ("–", "±0", "+1,234", "−1,234")


def test_only_web_addresses_are_linked() -> None:
    assert web("https://x.example/agency") == "https://x.example/agency"
    assert web("javascript:alert(1)") is None


def test_no_text_of_a_script_loses_its_spaces_when_it_is_minified() -> None:
    """rjsmin takes a template within a template for code."""
    scripts = Path(assets.__file__).parent / "static" / "js"
    nested = [file.name for file in scripts.glob("*.js") if re.search(r"\$\{[^}`]*`", file.read_text())]
    assert nested == []


def test_a_changed_template_is_another_version_of_the_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = shutil.copytree(look._TEMPLATES, tmp_path / "templates")
    monkeypatch.setattr(look, "_TEMPLATES", copy)
    before = look.version("")
    (copy / "base.html").write_text("changed")

    assert look.version("") != before
    assert look.version("") != look.version("https://cdn.example")
