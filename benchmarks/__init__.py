"""
Benchmarks: a loader, a rig of processes and a table of scenarios; never run as tests.
"""
