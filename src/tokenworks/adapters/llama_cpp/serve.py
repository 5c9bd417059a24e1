"""
Serve the demo model: ``python -m tokenworks.adapters.llama_cpp.serve --port 8702``.

llama.cpp's own HTTP server answers ``/v1/models``, ``/v1/chat/completions`` (plain and
streamed, with usage and cached-token counts) and ``/health``.

Known limits: with ``n`` above 1 it reports the usage of one choice only; asked for a
tool call, a model of this size writes prose.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from typing import Final

from tokenworks.adapters.llama_cpp.errors import DemoModelAbsentError
from tokenworks.adapters.llama_cpp.weights import ENGINE_MODULE, find_weights

MODEL_ALIAS: Final = "smollm2"
HOST: Final = "127.0.0.1"
PORT_DEFAULT: Final = 8702
SLOTS: Final = 4
CONTEXT_TOKENS_PER_SLOT: Final = 4_096
THREADS: Final = 1
"""Two threads meet at a barrier hundreds of times a token. On a machine whose cores are
also the hub's, each meeting waits for the scheduler: measured 1-37 s for an answer that
one thread, at about 100 tokens a second, gives in half of one."""
HTTP_THREADS: Final = 16

_QUIET: Final = 1


def serve(port: int) -> None:
    """
    Load the model and answer until the process is told to end.

    Args:
        port: On loopback; 0 takes a free one. The address is printed when it is ready.

    Raises:
        DemoModelAbsentError: The engine or the weights are not installed.
    """
    weights = find_weights()
    engine = importlib.import_module(ENGINE_MODULE)
    parameters = engine.CommonParams()
    parameters.model.path = str(weights)
    # Without an alias the server calls the model by its path on this machine.
    parameters.model_alias = {MODEL_ALIAS}
    parameters.hostnames = [HOST]
    parameters.port = port
    parameters.n_parallel = SLOTS
    parameters.n_ctx = SLOTS * CONTEXT_TOKENS_PER_SLOT
    parameters.cpuparams.n_threads = THREADS
    parameters.cpuparams_batch.n_threads = THREADS
    # Threads that wait must not spin: they would take the cores the others need to finish.
    parameters.cpuparams.poll = 0
    parameters.cpuparams_batch.poll = 0
    parameters.warmup = False
    parameters.fit_params = False
    parameters.n_threads_http = HTTP_THREADS
    parameters.n_gpu_layers = 0
    parameters.cache_ram_mib = 0
    parameters.endpoint_slots = False
    parameters.offline = True
    parameters.ui = False
    parameters.verbosity = _QUIET
    server = engine.Server(parameters)
    print(f"{MODEL_ALIAS} answers on {server.listening_address}", flush=True)  # noqa: T201 - its only output
    while True:
        signal.pause()


def main(arguments: list[str] | None = None) -> None:
    """
    Read the command line and serve.
    """
    parser = argparse.ArgumentParser(description="Serve the demo model with llama.cpp.")
    parser.add_argument("--port", type=int, default=PORT_DEFAULT)
    options = parser.parse_args(arguments)
    # The engine's threads have nothing to save: a signal ends the process at once.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        serve(options.port)
    except DemoModelAbsentError as error:
        sys.exit(f"Error: {error.message}")


if __name__ == "__main__":
    main()
