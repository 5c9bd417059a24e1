"""
Power meters of this machine and of others.

Owns: reading Linux powercap (RAPL), NVIDIA's NVML, a Prometheus text (DCGM), a recorded file
again, and the model for machines on which nothing can be measured.
Does not own: validation and integration (``factory/energy``).
Invariants: each reads through ``factory/ports.py``; a device whose energy is computed and not
measured is named ``model:...``; a meter that may not be read is an error, never a zero.
"""
