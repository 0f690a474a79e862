"""The publisher of a peer's tasks: `python -m … with_rq`; for each line `number counted` it publishes, and tells its CPU."""

import json
import sys
import time
from importlib import import_module


def main() -> None:
    peer = import_module(f"tests.performance.peers.{sys.argv[1]}")
    for line in sys.stdin:
        number, _, counted = line.rstrip("\n").partition(" ")
        spent = time.process_time()
        peer.publish(int(number), counted)
        print(json.dumps({"cpu_s": time.process_time() - spent}), flush=True)


if __name__ == "__main__":
    main()
