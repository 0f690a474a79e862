"""What a process logs of an error: where it happened, and nothing that is secret."""

import subprocess
import sys
from pathlib import Path

import pytest

FAILING = """
import logging, sys
from pipeline.log import configure
from tests.fakes import settings

def connect(password):
    raise OSError("no connection")

configure(settings("postgresql://localhost/rollcall", "redis://localhost", LOG_FORMAT=sys.argv[1]), "worker_x")
try:
    connect("open" + "sesame")
except OSError:
    logging.getLogger("celery.app.trace").error("Task raised", exc_info=True)
"""


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_traceback_names_its_lines_and_shows_no_variables(log_format: str, project: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-c", FAILING, log_format], cwd=project, capture_output=True, text=True, check=True
    )

    assert "in connect" in said.stdout
    assert "OSError: no connection" in said.stdout
    assert "opensesame" not in said.stdout
    assert said.stderr == ""
