"""Account lists that ship with the project."""
