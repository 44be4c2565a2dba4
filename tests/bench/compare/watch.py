"""A clock for the scripts that are compared; who starts them says in BEGAN when that was."""

import json
import os
import time


class Watch:
    """Made when everything is ready for the first step."""

    def __init__(self):
        self.start = time.time() - float(os.environ["BEGAN"])
        self.marks, self.losses = [(time.time(), time.process_time())], []

    def step(self, loss):
        """A step has ended."""
        self.marks.append((time.time(), time.process_time()))
        self.losses.append(loss)

    def close(self):
        """Prints what was seen: seconds, nats, bytes."""
        with open("/proc/self/status", encoding="ascii") as file:
            peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024
        found = {"start": self.start, "losses": self.losses, "peak": peak}
        for name, marks in zip(("steps", "busy"), zip(*self.marks)):
            found[name] = [after - before for before, after in zip(marks, marks[1:])]
        print(json.dumps(found))
