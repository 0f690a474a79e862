"""`python -m deploy.simulator`: serve until SIGTERM or Ctrl-C."""

import argparse
import os
import signal
import sys

from deploy.simulator.server import Simulator


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.simulator", description=__doc__)
    parser.add_argument(
        "--port", type=int, default=os.environ.get("SIMULATOR_PORT"), help="or SIMULATOR_PORT; 0: any"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--seed", type=int, default=1, help="another seed is another world")
    options = parser.parse_args()
    if options.port is None:
        parser.error("give --port or set SIMULATOR_PORT")
    # Blocked before any thread begins, so that only sigwait below gets them.
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    try:
        simulator = Simulator(options.port, host=options.host, seed=options.seed)
    except (OSError, OverflowError) as exc:
        sys.exit(f"simulator: cannot listen on {options.host}:{options.port}: {exc}")
    with simulator:
        print(f"simulator: listening on {simulator.url}", flush=True)
        signal.sigwait(ends)


if __name__ == "__main__":
    main()
