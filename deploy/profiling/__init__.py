"""Profiles of one process of Rollcall's: `rollcall profile`."""
