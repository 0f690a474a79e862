"""A history comes into a real database: row by row, once, and whatever interrupts it."""

import csv
import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from db import derived, partitions, provenance
from db.engine import Engine, reading, transaction
from pipeline import history
from pipeline.history import Options, import_file
from tests.commands import peak_rss_bytes
from tests.fakes import NOON
from tests.history import all_is_derived, partition_of_days
from tests.jobs import listed, requested, said, saved
from tests.serving import wait_for

DAY = timedelta(days=1)
FIRST = date(2024, 3, 1)


def save(path: Path, *rows: str, heading: str = "account,date,followers") -> str:
    path.write_text("\n".join([heading, *rows]) + "\n")
    return str(path)


def kept(engine: Engine) -> dict[tuple[str, str], int | None]:
    """Return the followers of every snapshot by handle and day."""
    with reading(engine) as conn:
        rows = conn.execute(
            text(
                "SELECT handle, snapshot_date, followers FROM fact_followers_snapshot JOIN dim_account USING (account_key)"
            )
        )
        return {(handle, str(day)): followers for handle, day, followers in rows}


def rejected(path: Path) -> list[tuple[int, str]]:
    """Return number and reason of every row in a file of rejects."""
    with path.open(newline="") as file:
        return [(int(row["row"]), row["reason"]) for row in csv.DictReader(file)]


@pytest.fixture
def birds(engine: Engine) -> dict[str, int]:
    """List two accounts; return their keys."""
    with transaction(engine) as conn:
        return dict(zip(("goose", "duck"), listed(conn, "goose", "duck", org_name="Birds"), strict=True))


@pytest.fixture
def import_json(rollcall) -> Callable[..., dict]:
    def run(*arguments: str, exit_code: int = 0, **more: str) -> dict:
        result = rollcall("history", "import", "--json", *arguments, **more)
        assert result.exit_code == exit_code, result.output
        answer: dict = json.loads(result.stdout)
        return answer

    return run


def test_good_rows_come_in_marked_as_imported_and_everything_follows(engine, birds, import_json, tmp_path):
    file = save(
        tmp_path / "history.csv",
        "x/goose,2024-03-01,90,1,2,3,",
        "https://x.com/goose,2024-03-02,100,,,,rounded",
        "x/duck,2024-03-01,,0,,,",
        heading="account,date,followers,following,posts,engagement,precision",
    )
    assert import_json(file, "--by", "Ada")["counts"] == {
        "rows": 3,
        "inserted": 3,
        "updated": 0,
        "unchanged": 0,
        "outranked": 0,
        "rejected": 0,
    }
    with reading(engine) as conn:
        rows = conn.execute(
            text("""
                SELECT account_key, snapshot_date, followers, following, posts, engagement, source, precision, imported_by
                FROM fact_followers_snapshot LEFT JOIN history_import USING (import_id) ORDER BY 1, 2
            """)
        ).all()
        latest = conn.execute(
            text("SELECT followers, delta_1d, source FROM account_latest ORDER BY account_key")
        ).all()
    assert [tuple(row) for row in rows] == [
        (birds["goose"], FIRST, 90, 1, 2, 3, "imported", "exact", "Ada"),
        (birds["goose"], FIRST + DAY, 100, None, None, None, "imported", "rounded", "Ada"),
        (birds["duck"], FIRST, None, 0, None, None, "imported", "exact", "Ada"),
    ]
    assert [tuple(row) for row in latest] == [(100, 10, "imported"), (None, None, "imported")]
    assert not (tmp_path / "history.csv.rejects.csv").exists()
    assert all_is_derived(engine)


def test_bad_rows_go_to_the_rejects_with_number_reason_and_row_and_the_good_ones_come_in(
    engine, birds, rollcall, tmp_path
):
    file = save(
        tmp_path / "history.csv",
        "x/goose,2024-03-01,5",
        "x/swan,2024-03-01,5",
        "=cmd,2024-03-01,5",
        'x/goose,2024-03-02,"1,234"',
        "x/goose,2024-03-03,-5",
        "x/goose,2124-03-03,5",
        "x/duck,2024-03-01",
        "x/duck,2024-03-02,7",
    )
    result = rollcall("history", "import", file)
    assert result.exit_code == 0
    rejects = tmp_path / "history.csv.rejects.csv"
    assert (
        f"8 rows: 2 new, 0 changed, 0 unchanged, 0 left as the platform said them, 6 rejected ({rejects})."
        in result.stderr
    )
    assert kept(engine) == {("goose", "2024-03-01"): 5, ("duck", "2024-03-02"): 7}
    assert [(row, reason[:34]) for row, reason in rejected(rejects)] == [
        (3, "x/swan is not in the account list:"),
        (4, "'=cmd' names no platform: write x/"),
        (5, "followers: '1,234' has a separator"),
        (6, "followers: '-5' is negative"),
        (7, "date: 2124-03-03 is still to come"),
        (8, "has 2 values for 3 columns: it may"),
    ]
    lines = [row["line"] for row in csv.DictReader(rejects.read_text().splitlines())]
    assert lines[0] == "x/swan,2024-03-01,5"
    assert lines[1] == "'=cmd,2024-03-01,5"  # as text: a spreadsheet would run it


def test_where_every_row_was_rejected_a_script_can_tell(birds, rollcall, tmp_path):
    assert rollcall("history", "import", save(tmp_path / "h.csv", "x/swan,2024-03-01,5")).exit_code == 1
    assert rollcall("history", "import", save(tmp_path / "h.csv")).exit_code == 0
    assert not (tmp_path / "h.csv.rejects.csv").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_a_platform_said_gives_way_only_when_asked(engine, birds, import_json, tmp_path, overwrite):
    with transaction(engine) as conn:
        job = requested(conn, [birds["goose"]])
        saved(conn, job, said(job, 100))
    file = save(tmp_path / "h.csv", f"x/goose,{NOON.date()},5", f"x/goose,{NOON.date() - DAY},4")
    counts = import_json(file, *(["--overwrite"] if overwrite else []))["counts"]
    assert (counts["inserted"], counts["updated"], counts["outranked"]) == ((1, 1, 0) if overwrite else (1, 0, 1))
    assert kept(engine)["goose", str(NOON.date())] == (5 if overwrite else 100)
    assert all_is_derived(engine)


def test_what_a_platform_says_later_replaces_what_was_imported_and_no_longer_says_by_whom(
    engine, birds, import_json, tmp_path
):
    import_json(save(tmp_path / "h.csv", f"x/goose,{NOON.date()},5"))
    with transaction(engine) as conn:
        job = requested(conn, [birds["goose"]])
        saved(conn, job, said(job, 100))
        row = conn.execute(text("SELECT followers, source, import_id FROM fact_followers_snapshot")).one()
        assert tuple(row) == (100, "simulated", None)
        assert conn.execute(text("SELECT followers FROM account_latest")).scalar() == 100


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_of_a_day_given_twice_the_last_row_counts_wherever_the_batches_end(
    engine, birds, import_json, tmp_path, monkeypatch, batch
):
    monkeypatch.setattr(history, "_BATCH", batch)
    rows = ("x/goose,2024-03-01,1", "x/GOOSE,2024-03-01,2", "twitter.com/goose,2024-03-01,2", "x/duck,2024-03-01,3")
    counts = import_json(save(tmp_path / "h.csv", *rows))["counts"]
    assert counts == {"rows": 4, "inserted": 2, "updated": 1, "unchanged": 1, "outranked": 0, "rejected": 0}
    assert kept(engine) == {("goose", "2024-03-01"): 2, ("duck", "2024-03-01"): 3}


def test_the_same_file_again_changes_nothing_and_says_so(engine, birds, import_json, tmp_path):
    file = save(tmp_path / "h.csv", "x/goose,2024-03-01,1", "x/duck,2024-03-01,")
    first = import_json(file)
    with reading(engine) as conn:
        before = conn.execute(text("SELECT xmin, import_id FROM fact_followers_snapshot")).all()
    again = import_json(file)
    assert (again["counts"]["unchanged"], again["counts"]["rejected"]) == (1, 1)
    with reading(engine) as conn:
        assert conn.execute(text("SELECT xmin, import_id FROM fact_followers_snapshot")).all() == before
    assert again["import_id"] > first["import_id"]


def test_a_dry_run_judges_like_an_import_and_leaves_the_database_alone(engine, birds, import_json, tmp_path):
    file = save(tmp_path / "h.csv", "x/goose,2024-03-01,1", "x/swan,2024-03-01,2", "x/duck,2019-03-01,x")
    answer = import_json(file, "--dry-run")
    assert answer["counts"] == {"rows": 3, "inserted": 0, "updated": 0, "unchanged": 1, "outranked": 0, "rejected": 2}
    assert (answer["dry_run"], answer["import_id"]) == (True, None)
    would = rejected(tmp_path / "h.csv.rejects.csv")
    with reading(engine) as conn:
        assert provenance.listed(conn) == []
        assert kept(engine) == {}
        assert all(part.first.year >= datetime.now(UTC).year for part in partitions.listed(conn))
    import_json(file)
    assert rejected(tmp_path / "h.csv.rejects.csv") == would


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "jsonl", "jsonl.gz", "parquet"])
def test_every_format_brings_in_the_same(engine, birds, import_json, tmp_path, kind):
    path = tmp_path / f"h.{kind}"
    records = [
        {"platform": "X", "handle": "@goose", "snapshot_date": "2024-03-01", "followers": 5, "posts": None},
        {"platform": "X", "handle": "swan", "snapshot_date": "2024-03-01", "followers": 5, "posts": None},
        {"platform": "X", "handle": "duck", "snapshot_date": "2024-03-01", "followers": None, "posts": 0},
    ]
    if kind == "parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(records), path)
    else:
        lines = [json.dumps(record) for record in records]
        if kind.startswith("csv"):
            lines = [",".join("" if v is None else str(v) for v in values) for values in map(dict.values, records)]
            lines.insert(0, ",".join(records[0]))
        raw = "\n".join(lines).encode()
        path.write_bytes(gzip.compress(raw) if kind.endswith("gz") else raw)
    counts = import_json(str(path))["counts"]
    assert (counts["inserted"], counts["rejected"]) == (2, 1)
    assert kept(engine) == {("goose", "2024-03-01"): 5, ("duck", "2024-03-01"): None}
    assert "x/swan is not in the account list" in rejected(tmp_path / f"h.{kind}.rejects.csv")[0][1]


def test_standard_input_is_imported_too(engine, birds, rollcall, tmp_path):
    result = rollcall(
        "history", "import", "-", stdin="account,date,followers\nx/goose,2024-03-01,5\nx/swan,2024-03-01,5\n"
    )
    assert result.exit_code == 0
    assert kept(engine) == {("goose", "2024-03-01"): 5}
    assert [row for row, _ in rejected(tmp_path / "stdin.rejects.csv")] == [3]
    with reading(engine) as conn:
        given = provenance.listed(conn)[0].given
    assert (given.file_name, given.sha256, given.size_bytes) == ("-", None, None)


def test_who_imported_what_and_when_is_listed_newest_first(engine, birds, rollcall, tmp_path, monkeypatch):
    monkeypatch.setenv("LOGNAME", "ada")
    save(tmp_path / "march.csv", "x/goose,2024-03-01,5", "x/swan,2024-03-01,5")
    save(tmp_path / "april.csv", "x/goose,2024-04-01,6")
    for arguments in (("march.csv",), ("april.csv", "--by", "Grace", "--overwrite")):
        assert rollcall("history", "import", *arguments).exit_code == 0
    lines = [line.split("\t") for line in rollcall("history", "imports").stdout.splitlines()]
    assert [(line[1], line[2], line[-1]) for line in lines] == [
        ("april.csv", "Grace", "0"),
        ("march.csv", "ada", "1"),
    ]
    april, march = json.loads(rollcall("history", "imports", "--json").stdout)
    assert (march["rows"], march["inserted"], march["rejected"], march["overwrite"]) == (2, 1, 1, False)
    assert april["overwrite"] is True
    assert march["started_at"] <= march["finished_at"] <= april["started_at"]
    assert march["size_bytes"] == (tmp_path / "march.csv").stat().st_size


def test_days_of_other_years_get_their_partitions(engine, birds, import_json, tmp_path):
    import_json(save(tmp_path / "h.csv", "x/goose,2015-03-01,5", "x/goose,2019-12-31,5"), PARTITION_MONTHS="12")
    with reading(engine) as conn:
        assert partition_of_days(conn) == {date(2015, 3, 1): "2015_01", date(2019, 12, 31): "2019_01"}


def test_days_that_the_retention_would_take_out_again_are_rejected(engine, birds, import_json, tmp_path):
    old = datetime.now(UTC).date().replace(day=1) - 400 * DAY
    answer = import_json(save(tmp_path / "h.csv", f"x/goose,{old},5"), exit_code=1, RETENTION_MONTHS="12")
    assert answer["counts"]["rejected"] == 1
    assert "the oldest day that is kept" in rejected(tmp_path / "h.csv.rejects.csv")[0][1]


def test_imported_history_stays_when_the_simulated_numbers_go(engine, birds, import_json, rollcall, tmp_path):
    with transaction(engine) as conn:
        job = requested(conn, [birds["goose"]])
        saved(conn, job, said(job, 100))
    import_json(save(tmp_path / "h.csv", "x/goose,2024-03-01,5"))
    assert rollcall("demo", "clear", "--yes").exit_code == 0
    assert kept(engine) == {("goose", "2024-03-01"): 5}
    assert all_is_derived(engine)


def test_the_caches_are_told_which_accounts_changed_and_only_then(engine, birds, import_json, tmp_path, monkeypatch):
    purged: list[frozenset[str]] = []
    monkeypatch.setattr("pipeline.history_command.purge", lambda settings, tags: purged.append(tags))
    file = save(tmp_path / "h.csv", "x/goose,2024-03-01,5", "x/swan,2024-03-01,5")
    import_json(file)
    assert purged == [{"summary", "grid", "platform:x", f"account:{birds['goose']}"}]
    import_json(file)
    assert len(purged) == 1


@pytest.mark.parametrize(
    ("content", "arguments", "said_so"),
    [
        (b"Dear colleague,\n", (), "The columns must be named"),
        (b"account,date,followers\n".decode().encode("utf-16"), (), "UTF-16"),
        (b"PK\x03\x04", (), "Excel or ZIP"),
        (b"PAR1nonsense", (), "Parquet file is cut off or damaged"),
        (None, (), "No such file"),
        (b"account,date,followers\n", ("--rejects", "h.csv"), "--rejects names the file that is to be imported"),
        (b"account,date,followers\n", ("--rejects", "nowhere/r.csv"), "No such file"),
        (b"account,date,followers\n", ("--format", "xml"), "is not one of"),
    ],
)
def test_what_is_no_history_is_told_in_a_line_and_leaves_no_trace(
    engine, rollcall, tmp_path, content, arguments, said_so
):
    if content is not None:
        (tmp_path / "h.csv").write_bytes(content)
    result = rollcall("history", "import", "h.csv", *arguments)
    assert result.exit_code == 2
    assert said_so in result.stderr
    assert "Traceback" not in result.output
    with reading(engine) as conn:
        assert provenance.listed(conn) == []
    assert not (tmp_path / "h.csv.rejects.csv").exists()


def test_of_a_damaged_file_what_was_committed_before_the_damage_stands(
    engine, birds, rollcall, tmp_path, monkeypatch
):
    monkeypatch.setattr(history, "_BATCH", 1_000)
    rows = "".join(f"x/goose,{FIRST + n % 900 * DAY},{n}\n" for n in range(20_000))
    (tmp_path / "h.csv.gz").write_bytes(gzip.compress(f"account,date,followers\n{rows}".encode())[:-2_000])
    result = rollcall("history", "import", "h.csv.gz")
    assert result.exit_code == 1
    assert "000, up to which all is kept: The gzip file is cut off" in result.stderr
    assert len(kept(engine)) == 900
    assert all_is_derived(engine)


# Interruptions


def options(path: Path, **more) -> Options:
    return Options(rejects=path.with_name("rejects.csv"), imported_by="Ada", **more)


def long_file(path: Path, rows: int = 40) -> str:
    """Write a file of which every tenth row is bad."""
    return save(path, *(f"x/{'swan' if n % 10 == 9 else 'goose'},{FIRST + n * DAY},{n}" for n in range(rows)))


def interrupted_after(engine: Engine, name: str, options: Options, *, batches: int) -> None:
    """Import so many batches, and stop as a process does that is killed: nothing is tidied up."""
    work = import_file(engine, name, options, now=datetime.now(UTC))
    for _ in range(batches + 1):
        next(work)
    work.close()


def test_an_interrupted_import_goes_on_behind_its_last_batch_and_ends_as_if_nothing_had_been(
    engine, birds, tmp_path, monkeypatch
):
    monkeypatch.setattr(history, "_BATCH", 8)
    file, how = long_file(tmp_path / "h.csv"), options(tmp_path / "h.csv")
    interrupted_after(engine, file, how, batches=2)
    with reading(engine) as conn:
        (begun,) = provenance.listed(conn)
        written = conn.execute(text("SELECT snapshot_date, xmin FROM fact_followers_snapshot")).all()
    assert (begun.finished_at, begun.counts.rows, begun.counts.rejected) == (None, 16, 1)
    # What a dying process had written behind its last commit is forgotten.
    with how.rejects.open("ab") as rejects:
        rejects.write(b"20,half a li")
    steps = list(import_file(engine, file, how, now=datetime.now(UTC)))
    assert (steps[0].resumed_at, steps[0].counts) == (16, begun.counts)
    with reading(engine) as conn:
        (ended,) = provenance.listed(conn)
        still = conn.execute(text("SELECT snapshot_date, xmin FROM fact_followers_snapshot")).all()
    assert set(written) <= set(still)
    assert (ended.import_id, ended.counts) == (begun.import_id, provenance.Counts(rows=40, inserted=36, rejected=4))
    assert ended.finished_at
    assert [row for row, _ in rejected(how.rejects)] == [11, 21, 31, 41]
    assert len(kept(engine)) == 36
    assert all_is_derived(engine)


@pytest.mark.parametrize("change", ["another file", "other rules", "rejects gone", "finished"])
def test_an_import_that_is_not_the_interrupted_one_begins_anew(engine, birds, tmp_path, monkeypatch, change):
    monkeypatch.setattr(history, "_BATCH", 12)
    path = tmp_path / "h.csv"
    file, how = long_file(path), options(path)
    interrupted_after(engine, file, how, batches=1)
    match change:
        case "another file":
            path.write_text(path.read_text() + "x/duck,2024-03-01,5\n")
        case "other rules":
            how = options(path, overwrite=True)
        case "rejects gone":
            how.rejects.unlink()
        case "finished":
            list(import_file(engine, file, how, now=datetime.now(UTC)))
    steps = list(import_file(engine, file, how, now=datetime.now(UTC)))
    assert steps[0].resumed_at == 0
    assert [row for row, _ in rejected(how.rejects)] == [11, 21, 31, 41]


def test_one_file_is_not_imported_twice_at_a_time(engine, birds, rollcall, tmp_path):
    file = long_file(tmp_path / "h.csv")
    work = import_file(engine, file, options(tmp_path / "h.csv"), now=datetime.now(UTC))
    next(work)
    result = rollcall("history", "import", file)
    assert (result.exit_code, "is being imported by another process" in result.stderr) == (1, True)
    work.close()
    assert rollcall("history", "import", file).exit_code == 0


def test_an_import_that_is_killed_goes_on_when_it_is_run_again(engine, birds, environ, rollcall, tmp_path):
    with transaction(engine) as conn:
        listed(conn, *(f"bird{n}" for n in range(100)))
    file = save(
        tmp_path / "h.csv",
        *(
            f"x/{'swan' if n % 1_000 == 999 else f'bird{n % 100}'},{FIRST - n // 100 * DAY},{n}"
            for n in range(120_000)
        ),
    )
    command = [str(Path(sys.executable).with_name("rollcall")), "history", "import", file]
    process = subprocess.Popen(command, env={**os.environ, **environ}, cwd=tmp_path)

    def rows() -> int:
        with reading(engine) as conn:
            return conn.scalar(text("SELECT coalesce(max(rows), 0) FROM history_import")) or 0

    wait_for(rows, "the first batch", within_s=60)
    with transaction(engine) as conn:
        derived.alone(conn)  # so that it can't end before it is killed
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = rows()
        assert 0 < done < 120_000

    def again() -> bool:
        # The server may need a moment to notice that the killed one is gone.
        nonlocal result
        result = rollcall("history", "import", file)
        return "another process" not in result.stderr

    result = None
    wait_for(again, "the killed import's session to end", within_s=30)
    assert result.exit_code == 0, result.stderr
    assert f"Goes on behind row {done:,}, where it was interrupted." in result.stderr
    assert "120,000 rows: 119,880 new, 0 changed, 0 unchanged" in result.stderr
    assert [row for row, _ in rejected(tmp_path / "h.csv.rejects.csv")] == list(range(1_001, 120_002, 1_000))
    assert len(kept(engine)) == 119_880
    with reading(engine) as conn:
        assert len(provenance.listed(conn)) == 1
    assert all_is_derived(engine)


def test_memory_does_not_grow_with_the_file(engine, birds, environ, tmp_path):
    peaks = []
    for count in (60_000, 200_000):
        file = save(
            tmp_path / f"{count}.csv", *(f"x/goose,{FIRST - n % 5_000 * DAY},{n % 5_000}" for n in range(count))
        )
        peaks.append(peak_rss_bytes(["history", "import", file], environ, tmp_path))
    assert peaks[1] - peaks[0] < 16 * 2**20, peaks
