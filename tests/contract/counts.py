"""The numbers of what a reader found, and where they and the ids may come from."""

from pipeline.records import Missing, Posts, Profile

Place = tuple[str | int, str]
"""An account's key or a post's id, and the name of the number."""

# What is added up of two fields, in the platforms where something is.
SUMS = {"x": {"shares"}, "bluesky": {"shares"}}
# Facebook's answers stand under what was asked for: another id in one is the page's own, where the asked one is an alias.
KEYED = {"facebook"}


def counts(found: list[Profile | Missing] | Posts | Missing) -> dict[Place, int | None]:
    """Return every number that was read, those not told as None."""
    if isinstance(found, Posts):
        engagement = ("likes", "comments", "shares", "views")
        return {(post.post_id, name): getattr(post, name) for post in found.posts for name in engagement}
    profiles = [one for one in found if isinstance(one, Profile)] if isinstance(found, list) else []
    return {
        (one.account_key, name): getattr(one, name)
        for one in profiles
        for name in ("followers", "following", "posts")
    }
