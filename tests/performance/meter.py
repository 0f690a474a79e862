"""CPU by stage within one process of the pipeline, told to the benchmark whenever it asks."""

import json
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

_DB = str(Path(__file__).resolve().parent.parent.parent / "db") + os.sep


class Meter:
    """Counts what each thread spends in a stage, less what it spends in the stages that this one calls."""

    def __init__(self) -> None:
        self.cpu_s: defaultdict[str, float] = defaultdict(float)
        self.statements: defaultdict[str, list[float]] = defaultdict(lambda: [0, 0.0])
        self._lock = threading.Lock()
        self._thread = threading.local()

    def stage(self, name: str, owner: Any, *functions: str) -> None:
        """Count functions of a module, a class or an object as a stage. Raises AttributeError where one is gone."""
        for function in functions:
            setattr(owner, function, self._counted(name, getattr(owner, function)))

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def counted(*args: Any, **options: Any) -> Any:
            outer, began = getattr(self._thread, "inner_s", 0.0), time.thread_time()
            self._thread.inner_s = 0.0
            try:
                found = function(*args, **options)
                return list(found) if isinstance(found, Iterator) else found  # a generator works in its own stage
            finally:
                spent = time.thread_time() - began
                with self._lock:
                    self.cpu_s[name] += spent - self._thread.inner_s
                self._thread.inner_s = outer + spent

        return counted

    def watch_statements(self) -> None:
        """Count every statement and the seconds until its answer, by the function of `db` that sends it."""

        @event.listens_for(Engine, "before_cursor_execute")
        def before(conn: Any, *_: object) -> None:
            conn.info["bench_began"] = time.perf_counter()

        @event.listens_for(Engine, "after_cursor_execute")
        def after(conn: Any, *_: object) -> None:
            took_s = time.perf_counter() - conn.info["bench_began"]
            with self._lock:
                kept = self.statements[_sender()]
                kept[0] += 1
                kept[1] += took_s

    def answer(self, asked: Any, answers: Any) -> None:
        """Start to write all counts as one line to `answers` for every line of `asked`."""

        def serve() -> None:
            for _ in asked:
                with self._lock:
                    said = {"process_s": time.process_time(), "cpu_s": self.cpu_s, "statements": self.statements}
                    print(json.dumps(said), file=answers, flush=True)

        threading.Thread(target=serve, daemon=True).start()


def _sender() -> str:
    frame = sys._getframe(1)
    while frame.f_back is not None:
        path = frame.f_code.co_filename
        if path.startswith(_DB):
            return f"{Path(path).stem}.{frame.f_code.co_name}"
        frame = frame.f_back
    return "others"
