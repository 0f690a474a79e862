"""The read API (Falcon, ASGI) and its dashboard."""
