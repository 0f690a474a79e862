"""Run processes of the Procfile by honcho: `python -m deploy.processes api beat worker_x`.

The same as `honcho start`, which also hands each process a PORT of its own: here the settings say the ports.
"""

import os
import sys
from pathlib import Path

from honcho.environ import parse_procfile
from honcho.manager import Manager

PROCFILE = Path(__file__).resolve().parent.parent / "Procfile"


def main(names: list[str]) -> int:
    commands = parse_procfile(PROCFILE.read_text()).processes
    # The Procfile says `python`: the one that runs this.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    manager = Manager()
    for name in names:
        manager.add_process(name, commands[name], env={**os.environ, "PATH": path}, cwd=str(PROCFILE.parent))
    manager.loop()
    return manager.returncode or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
