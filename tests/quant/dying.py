"""A job's process that is killed while it works, as if it were out of memory."""

import os
import signal

if __name__ == "__main__":
    os.kill(os.getpid(), signal.SIGKILL)
