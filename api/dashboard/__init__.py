"""Pages for people, rendered on the server from the same cached reads as the API."""
