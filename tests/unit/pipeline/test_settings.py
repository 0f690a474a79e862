"""Settings come from the environment, and every fault is said at once."""

import re
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from db.standing import StaleAfter
from pipeline import platforms
from pipeline.limits import Rate
from pipeline.settings import SettingsError, load_settings
from tests.fakes import settings

DATABASE = "postgresql://rollcall:s3cret@localhost/rollcall"
REDIS = "redis://localhost:6379/0"


def test_everything_missing_is_said_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({}, env_files=())

    assert "DATABASE_URL" in str(caught.value)
    assert "REDIS_URL" in str(caught.value)


def test_every_wrong_setting_is_named_and_no_secret_is_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(
            {"DATABASE_URL": "mysql://root:hunter2@db/x", "REDIS_URL": REDIS, "PORT": "eighty", "DB_POOL_SIZE": "0"},
            env_files=(),
        )

    said = str(caught.value)
    assert all(name in said for name in ("DATABASE_URL", "PORT", "DB_POOL_SIZE"))
    assert "hunter2" not in said


def test_a_broker_of_a_kind_that_nobody_speaks_is_refused_at_start() -> None:
    with pytest.raises(SettingsError, match=r"BROKER_URL.*no address of a broker"):
        settings(DATABASE, REDIS, BROKER_URL="kafka://user:hunter2@host")
    assert settings(DATABASE, REDIS, BROKER_URL="amqp://host//").broker == "amqp://host//"


def test_a_replica_without_an_address_is_refused_at_start() -> None:
    with pytest.raises(SettingsError, match=r"ENABLE_READ_REPLICA.*needs DATABASE_READ_REPLICA_URL"):
        settings(DATABASE, REDIS, ENABLE_READ_REPLICA="true")
    with pytest.raises(SettingsError) as caught:
        settings(DATABASE, REDIS, ENABLE_READ_REPLICA="true", DATABASE_READ_REPLICA_URL="mysql://root:hunter2@db/x")
    assert "ENABLE_READ_REPLICA" not in str(caught.value)
    assert settings(
        DATABASE, REDIS, ENABLE_READ_REPLICA="true", DATABASE_READ_REPLICA_URL=DATABASE
    ).enable_read_replica
    assert not settings(DATABASE, REDIS, ENABLE_READ_REPLICA="false").enable_read_replica


def test_a_bare_postgresql_address_is_read_as_psycopg2() -> None:
    found = settings(DATABASE, REDIS).database_url.get_secret_value()

    assert found == "postgresql+psycopg2://rollcall:s3cret@localhost/rollcall"


def test_secrets_stay_hidden_when_settings_are_printed() -> None:
    found = settings(DATABASE, "redis://:r3dis@localhost/0", X_BEARER_TOKEN="b3arer")

    assert not any(secret in f"{found!r} {found}" for secret in ("s3cret", "r3dis", "b3arer"))


def test_the_environment_outranks_the_file(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(f"DATABASE_URL={DATABASE}\nREDIS_URL={REDIS}\nPORT=1234\nDB_POOL_SIZE=7\n")

    found = load_settings({"PORT": "4321"}, env_files=(file,))

    assert (found.port, found.db_pool_size) == (4321, 7)


def test_a_rate_limit_is_changed_by_the_name_of_its_call() -> None:
    x = platforms.load()["x"]

    assert settings(DATABASE, REDIS).rate(x, "profiles") == Rate(300, 900)
    assert settings(DATABASE, REDIS, RATE_LIMIT_X_PROFILES="1/s").rate(x, "profiles") == Rate(1, 1)


def test_a_misspelt_rate_limit_is_refused_instead_of_ignored() -> None:
    with pytest.raises(SettingsError, match="RATE_LIMIT_X_PROFILE: no platform has such a call"):
        settings(DATABASE, REDIS, RATE_LIMIT_X_PROFILE="1/s")


def test_a_rate_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match=r"RATE_LIMIT_X_PROFILES.*300/15m"):
        settings(DATABASE, REDIS, RATE_LIMIT_X_PROFILES="fast")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"READ_INTERVAL_S_TWITTER": "60"}, "READ_INTERVAL_S_TWITTER: no platform has such a call"),
        ({"POSTS_INTERVAL_S_LINKEDIN": "60"}, "POSTS_INTERVAL_S_LINKEDIN: no platform has such a call"),
        ({"READ_INTERVAL_S_X": "1d"}, "READ_INTERVAL_S_X: '1d' is no number of seconds"),
        ({"READ_INTERVAL_S_X": "0"}, "READ_INTERVAL_S_X: '0' is no number of seconds"),
        ({"READ_AT": "6am"}, "READ_AT: Value error, is no time of the day"),
        ({"READ_AT": "24:00"}, "READ_AT: Value error, is no time of the day"),
    ],
)
def test_intervals_and_times_that_are_none_are_refused_by_name(wrong: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(DATABASE, REDIS, **wrong)
    assert said in str(caught.value)


def test_a_platform_is_read_at_its_own_intervals_where_they_are_set() -> None:
    x, bluesky = platforms.load()["x"], platforms.load()["bluesky"]
    found = settings(DATABASE, REDIS, READ_INTERVAL_S="7200", READ_INTERVAL_S_X="60", POSTS_INTERVAL_S_X="600")

    assert (found.interval_s(x, "resolve"), found.interval_s(x, "profiles"), found.interval_s(x, "posts")) == (
        60,
        60,
        600,
    )
    assert (found.interval_s(bluesky, "profiles"), found.interval_s(bluesky, "posts")) == (7_200, 86_400)


def test_numbers_may_grow_a_twelfth_older_than_their_interval_unless_it_is_said_otherwise() -> None:
    assert settings(DATABASE, REDIS).stale_after == StaleAfter(interval_s=86_400, after_s=93_600)
    found = settings(
        DATABASE, REDIS, READ_INTERVAL_S="3600", STALE_AFTER_S="7200", READ_INTERVAL_S_X="60"
    ).stale_after
    assert found == StaleAfter(interval_s=3_600, after_s=7_200, intervals_s={"x": 60})


def test_a_time_of_the_day_is_the_second_at_which_everything_is_read() -> None:
    assert settings(DATABASE, REDIS).read_at_s is None
    assert settings(DATABASE, REDIS, READ_AT="00:00").read_at_s == 0
    assert settings(DATABASE, REDIS, READ_AT="06:30").read_at_s == 23_400


def test_the_simulator_stands_in_for_every_platform_and_rows_say_so() -> None:
    found = settings(DATABASE, REDIS, SIMULATOR_URL="http://127.0.0.1:8099", X_BASE_URL="https://proxy.example")
    known = platforms.load()

    assert found.source == "simulated"
    assert found.base_url(known["x"]) == "http://127.0.0.1:8099/x"
    assert found.base_url(known["mastodon"]) == "http://127.0.0.1:8099/mastodon/{host}"
    assert found.lacks(known["x"]) == ()


def test_a_live_platform_has_its_own_address_unless_another_is_set() -> None:
    x = platforms.load()["x"]

    assert settings(DATABASE, REDIS).base_url(x) == x.base_url
    assert settings(DATABASE, REDIS, X_BASE_URL="https://proxy.example/x/").base_url(x) == "https://proxy.example/x"


def test_a_platform_says_which_credentials_it_lacks() -> None:
    x = platforms.load()["x"]

    assert settings(DATABASE, REDIS).lacks(x) == ("X_BEARER_TOKEN",)
    assert settings(DATABASE, REDIS, X_BEARER_TOKEN="t").lacks(x) == ()


@pytest.mark.parametrize(
    ("redis", "broker"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("unix:///run/redis.sock?db=2", "redis+socket:///run/redis.sock?virtual_host=2"),
        ("unix:///run/redis.sock", "redis+socket:///run/redis.sock"),
    ],
)
def test_a_unix_socket_is_spelt_as_the_broker_wants_it(redis: str, broker: str) -> None:
    assert settings(DATABASE, redis).broker == broker


def test_numbered_credentials_are_further_sets_that_share_the_work() -> None:
    reddit = platforms.load()["reddit"]
    given = {
        f"REDDIT_CLIENT_{part}{number}": f"{part}{number}" for part in ("ID", "SECRET") for number in ("", "_2", "_3")
    }

    sets = settings(DATABASE, REDIS, **given).credentials(reddit)

    assert [one.label for one in sets] == ["1", "2", "3"]
    assert [one.values["REDDIT_CLIENT_SECRET"].get_secret_value() for one in sets] == [
        "SECRET",
        "SECRET_2",
        "SECRET_3",
    ]


def test_half_a_further_set_is_refused_at_start() -> None:
    given = {"REDDIT_CLIENT_ID": "a", "REDDIT_CLIENT_SECRET": "b", "REDDIT_CLIENT_ID_2": "c"}

    with pytest.raises(SettingsError, match="REDDIT_CLIENT_SECRET_2: missing"):
        settings(DATABASE, REDIS, **given)


def test_a_gap_in_the_numbers_is_refused_instead_of_leaving_a_set_unused() -> None:
    with pytest.raises(SettingsError, match="_3 without _2"):
        settings(DATABASE, REDIS, X_BEARER_TOKEN="a", X_BEARER_TOKEN_3="c")


def test_a_platform_without_keys_has_one_set_and_one_that_lacks_its_key_has_none() -> None:
    known = platforms.load()
    found = settings(DATABASE, REDIS)

    assert [one.label for one in found.credentials(known["bluesky"])] == ["1"]
    assert found.credentials(known["x"]) == ()


def test_the_simulator_is_sent_no_real_credential() -> None:
    found = settings(DATABASE, REDIS, SIMULATOR_URL="http://127.0.0.1:8099", X_BEARER_TOKEN="real")
    (only,) = found.credentials(platforms.load()["x"])

    assert only.values["X_BEARER_TOKEN"].get_secret_value() == "simulated"


def test_rollcall_names_itself_to_platforms_with_its_version_and_whom_to_ask() -> None:
    assert re.fullmatch(r"rollcall/\d+\.\d+\.\d+", settings(DATABASE, REDIS).user_agent)
    asked = settings(DATABASE, REDIS, HTTP_CONTACT="https://press.example/bot").user_agent
    assert asked.endswith(" (+https://press.example/bot)")


@pytest.mark.parametrize("contact", ["(me)", "Jane Doe", "jane\r\nX-Evil: 1", "jané@press.example"])
def test_a_contact_that_no_header_carries_is_refused(contact: str) -> None:
    with pytest.raises(SettingsError, match="HTTP_CONTACT"):
        settings(DATABASE, REDIS, HTTP_CONTACT=contact)


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy"])
@pytest.mark.parametrize("address", ["http://u:p4ss@proxy.example:3128", "u:p4ss@proxy.example:3128"])
def test_a_proxy_is_read_as_other_programs_do_and_hides_its_password(name: str, address: str) -> None:
    found = settings(DATABASE, REDIS, **{name: address})
    assert found.https_proxy is not None
    assert found.https_proxy.get_secret_value() == "http://u:p4ss@proxy.example:3128"
    assert "p4ss" not in f"{found!r}"


@pytest.mark.parametrize("address", ["socks5://u:p4ss@proxy.example", "http://", "http://u:p4ss@h:p4ss"])
def test_a_proxy_that_can_t_be_one_is_named_without_its_password(address: str) -> None:
    with pytest.raises(SettingsError, match="HTTPS_PROXY") as caught:
        settings(DATABASE, REDIS, HTTPS_PROXY=address)
    assert "p4ss" not in str(caught.value)


def test_only_servers_that_anybody_names_are_kept_to_the_public_internet() -> None:
    x, mastodon = platforms.load()["x"], platforms.load()["mastodon"]
    assert settings(DATABASE, REDIS).is_public_only(mastodon)
    assert not settings(DATABASE, REDIS).is_public_only(x)
    for chosen in (
        {"HTTP_ALLOW_PRIVATE_HOSTS": "true"},
        {"MASTODON_BASE_URL": "http://10.0.0.7/{host}"},
        {"SIMULATOR_URL": "http://127.0.0.1:8900"},
    ):
        assert not settings(DATABASE, REDIS, **chosen).is_public_only(mastodon)


def test_a_cdn_is_known_by_its_servers_or_its_service() -> None:
    assert not settings(DATABASE, REDIS).has_cdn
    varnish = settings(DATABASE, REDIS, CDN_VARNISH_URLS="http://a:6081, http://[::1]:6081,http://a:6081")
    assert varnish.has_cdn and varnish.varnish_urls == ("http://a:6081", "http://[::1]:6081")
    fastly = settings(DATABASE, REDIS, CDN_FASTLY_SERVICE_ID="abc1", FASTLY_API_TOKEN="s3cret")
    assert fastly.has_cdn and "s3cret" not in f"{fastly!r}"


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"CDN_VARNISH_URLS": "varnish:6081"}, "CDN_VARNISH_URLS"),
        ({"CDN_VARNISH_URLS": "http://a:6081 http://b:6081"}, "CDN_VARNISH_URLS"),
        ({"CDN_VARNISH_URLS": "http://u:s3cret@a:6081"}, "CDN_VARNISH_URLS"),
        ({"CDN_FASTLY_URL": "http://a:1,http://b:2"}, "CDN_FASTLY_URL"),
        ({"CDN_FASTLY_SERVICE_ID": "abc1"}, "needs FASTLY_API_TOKEN"),
        ({"CDN_FASTLY_SERVICE_ID": "a/../b", "FASTLY_API_TOKEN": "s3cret"}, "CDN_FASTLY_SERVICE_ID"),
        ({"CDN_FASTLY_SERVICE_ID": "abc1", "FASTLY_API_TOKEN": "s3cret\r\nX: 1"}, "FASTLY_API_TOKEN"),
    ],
)
def test_a_cdn_that_can_t_be_one_is_refused_by_name(wrong: dict[str, str], name: str) -> None:
    with pytest.raises(SettingsError, match=name) as caught:
        settings(DATABASE, REDIS, **wrong)
    assert "s3cret" not in str(caught.value)


def _file(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_a_secret_may_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    found = load_settings(
        {
            "DATABASE_URL_FILE": _file(tmp_path / "database", f"{DATABASE}\n"),
            "REDIS_URL": REDIS,
            "X_BEARER_TOKEN_FILE": _file(tmp_path / "x", "one"),
            "X_BEARER_TOKEN_2_FILE": _file(tmp_path / "x2", "two\n"),
            "SSL_CERT_FILE": "/not/ours",
            "PORT_FILE": "/no/secret",
        },
        env_files=(),
    )

    assert found.database_url.get_secret_value().endswith("s3cret@localhost/rollcall")
    values = [one.values["X_BEARER_TOKEN"].get_secret_value() for one in found.credentials(platforms.load()["x"])]
    assert values == ["one", "two"]
    assert {file.name for file in found.secret_files} == {"database", "x", "x2"}


def test_the_environment_outranks_a_file_that_dot_env_names(tmp_path: Path) -> None:
    dot_env = tmp_path / ".env"
    dot_env.write_text(f"DATABASE_URL={DATABASE}\nREDIS_URL_FILE={_file(tmp_path / 'redis', 'redis://filed')}\n")

    def redis(**environ: str) -> str:
        return load_settings(environ, env_files=(dot_env,)).redis_url.get_secret_value()

    assert redis() == "redis://filed"
    assert redis(REDIS_URL="redis://here") == "redis://here"
    assert redis(REDIS_URL_FILE=_file(tmp_path / "other", "redis://other")) == "redis://other"


def test_what_is_wrong_with_a_secrets_file_is_said_without_the_secret(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfehunter2")
    with pytest.raises(SettingsError) as caught:
        load_settings(
            {
                "DATABASE_URL": DATABASE,
                "DATABASE_URL_FILE": _file(tmp_path / "database", "postgresql://me:hunter2@host/x"),
                "REDIS_URL_FILE": str(tmp_path / "missing"),
                "BROKER_URL_FILE": str(tmp_path),
                "X_BEARER_TOKEN_FILE": _file(tmp_path / "empty", "\n"),
                "FLOWER_BASIC_AUTH_FILE": str(tmp_path / "bytes"),
            },
            env_files=(),
        )

    said = str(caught.value)
    assert "DATABASE_URL: set beside DATABASE_URL_FILE" in said
    assert f"REDIS_URL_FILE: {tmp_path / 'missing'}: No such file" in said
    assert "BROKER_URL_FILE" in said and "Is a directory" in said
    assert f"X_BEARER_TOKEN_FILE: {tmp_path / 'empty'} holds nothing" in said
    assert "FLOWER_BASIC_AUTH_FILE" in said and "is no text" in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    "wrong",
    ["collector:4318", "http://user:hunter2@collector:4318", "http://collector?key=hunter2", "grpc://collector"],
)
def test_a_collector_that_can_t_be_one_is_refused_without_what_it_holds(wrong: str) -> None:
    with pytest.raises(SettingsError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT: .*no address of a collector") as caught:
        settings(DATABASE, REDIS, OTEL_EXPORTER_OTLP_ENDPOINT=wrong)
    assert "hunter2" not in str(caught.value)


def test_a_collector_is_told_the_headers_that_are_set() -> None:
    given = settings(DATABASE, REDIS, OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20s3cret, x-org=a=b")
    assert given.otlp_headers == {"authorization": "Bearer s3cret", "x-org": "a=b"}
    assert "s3cret" not in repr(given)
    for wrong in ("Bearer s3cret", "authorization=s3cret%0d%0ax: y", "=s3cret", "authorization=s3crét"):
        with pytest.raises(SettingsError, match=r"OTEL_EXPORTER_OTLP_HEADERS: .*no list of headers") as caught:
            settings(DATABASE, REDIS, OTEL_EXPORTER_OTLP_HEADERS=wrong)
        assert "s3cr" not in str(caught.value)


def test_a_collector_without_its_packages_is_refused_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr("pipeline.settings.version", version)
    with pytest.raises(SettingsError, match=r"needs opentelemetry-sdk.*pip install 'rollcall\[tracing\]'"):
        settings(DATABASE, REDIS, OTEL_EXPORTER_OTLP_ENDPOINT="http://collector:4318")
    assert settings(DATABASE, REDIS).otel_exporter_otlp_endpoint == ""
