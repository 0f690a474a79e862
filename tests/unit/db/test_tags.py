"""The names of cache tags."""

from db import tags


def test_a_finished_job_touches_its_accounts_its_platform_and_every_list_that_shows_them() -> None:
    assert tags.of_job("x", [4, 2]) == {"account:2", "account:4", "platform:x", "summary", "grid", "accounts", "jobs"}
