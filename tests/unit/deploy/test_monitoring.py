"""Prometheus' configuration and rules, and Grafana's board: each asks only for what is there, and is understood."""

import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.metrics import BY_NAME
from tests import prometheus
from tests.prometheus import HOW_TO_GET_IT, RULES, RULES_TEST, alerts, asked, board, filled_in, programs, promtool

needs_promtool = pytest.mark.skipif(programs() is None, reason=HOW_TO_GET_IT)
ROOT = Path(__file__).resolve().parent.parent.parent.parent
# What Prometheus itself adds to every series.
OWN_LABELS = {"job", "instance"}
OPERATORS = {"and", "or", "unless", "bool", "offset"}
GROUPINGS = r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)"


def expressions() -> list[str]:
    return [rule["expr"] for rule in alerts()] + [one.expression for one in asked()]


def labels_of(name: str) -> set[str] | None:
    """Return the labels of a series as `/metrics` shows it; None where nothing shows such a one."""
    if name == "up":
        return OWN_LABELS
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    metric = BY_NAME.get(base)
    if metric is None or (base != name) != (metric.kind == "timer"):
        return None
    return {*metric.labels, *(["le"] if name.endswith("_bucket") else []), *OWN_LABELS}


def faults(expression: str) -> Iterator[str]:
    """Name each metric, and each label of one, that nothing declares."""
    text = re.sub(r'"[^"]*"', '""', expression)
    chosen = re.findall(r"(\w+)\{([^}]*)\}", text)
    grouped = [name.strip() for names in re.findall(GROUPINGS, text) for name in names.split(",")]
    bare = re.sub(GROUPINGS, "", re.sub(r"\{[^}]*\}", "", text))
    names = set(re.findall(r"\b[a-zA-Z_:][\w:]*\b(?!\s*\()", bare)) - OPERATORS
    for name in names:
        if labels_of(name) is None:
            yield f"nothing is called {name}: {expression}"
        elif missing := set(grouped) - (labels_of(name) or set()):
            yield f"{name} has no {missing}: {expression}"
    for name, conditions in chosen:
        if missing := set(re.findall(r"(\w+)\s*[=!]", conditions)) - (labels_of(name) or set()):
            yield f"{name} has no {missing}: {expression}"


def test_rules_and_board_ask_only_for_declared_metrics_and_labels() -> None:
    assert not [fault for expression in expressions() for fault in faults(expression)]


@pytest.mark.parametrize(
    "expression",
    [
        "rollcall_gone > 0",
        "rate(rollcall_jobs[5m])",
        "sum by (handle) (rate(rollcall_jobs_total[5m]))",
        'rollcall_pauses{credential="1"} > 0',
        "rollcall_jobs_running unless on (lane) rollcall_pauses",
        "rate(rollcall_scrape_duration_seconds[5m])",
        "rollcall_pauses_bucket",
        "rollcall_pauses > 0 and on (platform) rollcall_gone",
    ],
)
def test_what_nothing_declares_is_found(expression: str) -> None:
    assert [*faults(expression)]


def test_every_alert_says_how_bad_it_is_what_is_wrong_and_where_to_read_on() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    told = {(name, severity) for name, severity in re.findall(r"^### (\w+)\n\n\((\w+)\) ", page, re.MULTILINE)}

    assert told == {(rule["alert"], rule["labels"]["severity"]) for rule in alerts()}
    assert {severity for _, severity in told} <= {"critical", "warning", "info"}
    for rule in alerts():
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["runbook"] == f"docs/metrics.md#{rule['alert'].lower()}"


def test_every_alert_is_seen_to_come_and_to_stay_away() -> None:
    tried = [one for case in yaml.safe_load(RULES_TEST.read_text())["tests"] for one in case["alert_rule_test"]]

    seen = {(one["alertname"], bool(one["exp_alerts"])) for one in tried}
    staying = {name for name, comes in seen if not comes}
    # Those that stay away only for some series say so beside those that come.
    beside = {"RollcallHitRateLow", "RollcallLimitUsedUp", "RollcallNothingRecorded"}
    names = {rule["alert"] for rule in alerts()}
    assert {name for name, comes in seen if comes} == names
    assert staying | beside == names


@needs_promtool
def test_promtool_understands_configuration_and_rules(tmp_path: Path) -> None:
    for command, file in (("config", prometheus.configuration(tmp_path)), ("rules", RULES)):
        done = promtool("check", command, str(file))
        assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(alerts())} rules found" in done.stdout


@needs_promtool
def test_alerts_come_when_they_should() -> None:
    done = promtool("test", "rules", str(RULES_TEST))
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_understands_whatever_the_board_asks(tmp_path: Path) -> None:
    rules = [{"record": f"board:{place}", "expr": one.expression} for place, one in enumerate(asked())]
    file = tmp_path / "board.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))

    done = promtool("check", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_board_is_one_that_grafana_takes() -> None:
    found = board()
    panels: list[dict[str, Any]] = found["panels"]
    ids = [panel["id"] for panel in panels]

    assert found["uid"] and found["title"] and found["schemaVersion"] >= 38
    assert len(set(ids)) == len(ids)
    variables = {one["name"]: one for one in found["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus"
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert variables["platform"]["datasource"] == source
    for panel in panels:
        if panel["type"] != "row":
            assert panel["datasource"] == source, panel["title"]
            assert all(target["datasource"] == source for target in panel["targets"]), panel["title"]
            names = [target["refId"] for target in panel["targets"]]
            assert names and len(set(names)) == len(names), panel["title"]
    (metric, label) = re.findall(r"^label_values\((\w+), (\w+)\)$", variables["platform"]["query"]["query"])[0]
    assert label in (labels_of(metric) or ())
    used = set(re.findall(r"\$(\w+)", str([target for p in panels for target in p.get("targets", ())])))
    assert used == {"platform", "__rate_interval"}
    assert not [one for one in asked() if "$" in filled_in(one.expression)]


def test_no_panel_of_the_board_lies_on_another() -> None:
    places = [(panel["title"], panel["gridPos"]) for panel in board()["panels"]]

    for title, at in places:
        assert at["x"] >= 0 and at["w"] > 0 and at["h"] > 0 and at["x"] + at["w"] <= 24, title
    for (one, at), (other, there) in combinations(places, 2):
        across = at["x"] < there["x"] + there["w"] and there["x"] < at["x"] + at["w"]
        down = at["y"] < there["y"] + there["h"] and there["y"] < at["y"] + at["h"]
        assert not (across and down), (one, other)
