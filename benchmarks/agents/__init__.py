"""
What payments of agents cost (``make bench-agents``).
"""
