"""One file per platform, named by an entry point of the group `rollcall.platforms`."""
