"""Writes deploy/env.example from the settings: `python -m deploy.env_example > deploy/env.example`."""

from collections.abc import Iterator

from pydantic.fields import FieldInfo

from pipeline import platforms
from pipeline.platforms import Platform
from pipeline.settings import Settings, is_secret

_HEAD = """\
# Every setting, with its default; what has none and isn't needed is left empty. docs/settings.md says more.
# Made from pipeline/settings.py (python -m deploy.env_example): a line that is commented out changes nothing.
#
# Under systemd: what all processes share in /etc/rollcall/rollcall.env, and DATABASE_URL, which each role has its own of, in
# api.env, workers.env and owner.env beside it (all mode 0640, root:rollcall). A secret may stand in a file of its own
# instead: X_BEARER_TOKEN_FILE=/run/secrets/x in place of X_BEARER_TOKEN=…
"""


def lines() -> Iterator[str]:
    """Yield the file, line by line."""
    yield from _HEAD.splitlines()
    for name, field in Settings.model_fields.items():
        if not field.exclude:
            yield ""
            yield f"# {field.description}" + (" (a secret)" if is_secret(name.upper()) else "")
            yield _setting(name.upper(), field)
    for platform in platforms.load().values():
        yield ""
        yield from _of_platform(platform)


def _setting(name: str, field: FieldInfo) -> str:
    if field.is_required():
        return f"{name}="
    default = "" if field.default is None else field.default
    return f"# {name}={str(default).lower() if isinstance(default, bool) else default}"


def _of_platform(platform: Platform) -> Iterator[str]:
    """Yield what a platform brings: credentials, its address, limits and intervals."""
    upper = platform.name.upper()
    yield f"# {platform.title}"
    for name in (*platform.needs, *platform.instead, *platform.uses):
        yield f"# {name}="
    yield f"# {upper}_BASE_URL={platform.base_url}"
    for kind, call in platform.calls.items():
        yield f"# RATE_LIMIT_{upper}_{kind.upper()}={call.limit}"
    if platform.calls:
        yield f"# READ_INTERVAL_S_{upper}="
    if "posts" in platform.calls:
        yield f"# POSTS_INTERVAL_S_{upper}="


if __name__ == "__main__":
    print("\n".join(lines()))
