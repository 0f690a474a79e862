"""`python -m workers x`: one dedicated worker process."""

from workers.app import main

if __name__ == "__main__":
    main()
