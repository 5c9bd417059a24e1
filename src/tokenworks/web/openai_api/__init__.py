"""
The OpenAI door: ``/v1/*``, plain ASGI on the hot path.

Owns: HTTP in front of the gateway: bodies with limits, headers, streams, error shapes.
Does not own: what a call is or costs.
Invariants: every answer carries the call's id once there is one; a stream that began ends
with ``[DONE]`` or an error event, never silently.
"""
