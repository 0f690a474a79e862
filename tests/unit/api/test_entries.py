from api.cache.entries import Key


def test_keys_that_differ_in_anything_have_names_of_their_own() -> None:
    keys = [
        Key("/a", (), "application/json"),
        Key("/b", (), "application/json"),
        Key("/a", (("q", "1"),), "application/json"),
        Key("/a", (("q", "1"), ("r", "2")), "application/json"),
        Key("/a", (("q", "1&r=2"),), "application/json"),  # a value that reads like two parameters
        Key("/a", (), "text/html"),
        Key("/a\n[]", (), "application/json"),
    ]
    assert len({key.digest for key in keys}) == len(set(keys)) == len(keys)
