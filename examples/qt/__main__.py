"""A small trainer window on `trainshed_client.qt`: `python -m examples.qt [URL]`, with a stack up.

Owns the application; the window is window.py's.
"""

from __future__ import annotations

import gc
import sys

from PySide6.QtWidgets import QApplication

from examples.qt.look import dress
from examples.qt.window import TrainerWindow
from trainshed_client.qt import TrainerClientRunner


def main() -> int:
    """Show the window until it is closed."""
    application = QApplication(sys.argv)
    dress(application)
    runner = TrainerClientRunner(sys.argv[1] if len(sys.argv) > 1 else None)
    window = TrainerWindow(runner)
    window.show()
    gc.freeze()  # what is loaded stays: no collection need look at it while the window is drawn
    runner.start()
    code = application.exec()
    runner.stop()
    return code


if __name__ == "__main__":
    sys.exit(main())
