"""A termination signal becomes an exception, and handlers of others stay."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from qvl_export.common.signals import Terminated, terminable

INTERRUPTED_IMPORT = """
import sys
from qvl_export.cli.main import main
class Interrupting:
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting())
sys.argv = ["qvl-export", "--version"]
main()
"""


@pytest.fixture(autouse=True)
def default() -> None:
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_signal_ends_the_block_with_the_code_of_a_shell() -> None:
    with pytest.raises(Terminated) as caught, terminable():
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_of_the_application_stays() -> None:
    seen: list[int] = []
    mine = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        with terminable():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, mine)
    assert seen == [signal.SIGTERM]


def test_other_threads_change_no_handler() -> None:
    found: list[object] = []

    def work() -> None:
        with terminable():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]


@pytest.mark.parametrize("module", ["click", "qvl_export.cli.commands", "qvl_export.cli.sensitivity"])
def test_an_interrupt_during_the_imports_is_one_line(module: str) -> None:
    """These modules are not imported before `main` runs."""
    code = INTERRUPTED_IMPORT.format(module=module)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
