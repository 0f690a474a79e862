"""The API's description (OpenAPI 3.1), made from what its resources declare."""
