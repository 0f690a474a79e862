"""The only package that writes SQL. It imports nothing of ours."""
