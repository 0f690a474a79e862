"""The tables in docs that follow from the code are what the code says."""

import pytest

from deploy import docs


@pytest.mark.parametrize("name", ["settings.md", "scaling.md"])
def test_the_page_has_the_tables_that_the_code_makes(name: str) -> None:
    path = docs.DOCS / name
    assert path.read_text() == docs.page(path), "python -m deploy.docs"


def test_every_table_stands_in_one_page() -> None:
    begun = "".join(path.read_text() for path in docs.DOCS.glob("*.md"))
    for name in docs._TABLES:
        assert begun.count(f"<!-- {name}: written by python -m deploy.docs -->") == 1, name
        assert begun.count(f"<!-- end of {name} -->") == 1, name
