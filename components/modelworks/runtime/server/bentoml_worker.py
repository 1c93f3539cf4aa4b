"""BentoML's worker, for as long as the server lives.

`python -m modelworks.runtime.server.bentoml_worker BENTO DESCRIPTOR NUMBER`

Standard input is the server's hold on it: when that closes, however the server ended, the worker answers what it has
and goes.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

_FINISH_SECONDS = 9.0


def main() -> None:
    """Serve the Bento on the listening socket with this descriptor."""
    bento, descriptor, number = sys.argv[1:]
    threading.Thread(target=_end_with_the_server, daemon=True).start()
    from _bentoml_impl.worker.service import main as serve  # a second; the thread above does not wait

    # The server keeps its connections; closed by the worker at the wrong moment, one would cost a request.
    serve([bento, "--fd", descriptor, "--worker-id", number, "--timeout-keep-alive", "86400"])


def _end_with_the_server() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_FINISH_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
