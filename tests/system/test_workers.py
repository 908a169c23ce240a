"""No worker outlives its process."""

import gc
import os
import signal
import subprocess
import sys
import time

from distill_utils.system.paths import ROOT
from distill_utils.system.workers import worker_pool

CODE = """
import os
import time
from distill_utils.system.workers import worker_pool
if __name__ == "__main__":
    pool = worker_pool(2)
    print(pool.submit(os.getpid).result(), flush=True)
    time.sleep(60)
"""


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_worker_ends_when_its_process_is_killed():
    with subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        worker = int(parent.stdout.readline())
        assert alive(worker)
        parent.send_signal(signal.SIGKILL)
    until = time.monotonic() + 10
    while alive(worker) and time.monotonic() < until:
        time.sleep(0.1)
    assert not alive(worker)


class Threaded:
    """Like a CTranslate2 model, it ends a process that frees it without having its threads."""

    def __init__(self) -> None:
        self.home, self.cycle = os.getpid(), self

    def __del__(self) -> None:
        if os.getpid() != self.home:
            os._exit(3)


def collected() -> int:
    gc.collect()
    return os.getpid()


def test_a_worker_frees_nothing_that_its_parent_left():
    gc.disable()  # else the cycle may be gone before the fork
    try:
        Threaded()
        with worker_pool(1) as pool:
            assert pool.submit(collected).result() != os.getpid()
    finally:
        gc.enable()
        gc.collect()
