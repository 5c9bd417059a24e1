"""
The official x402 packages under attack, on a chain of this machine (``make x402-baseline``).
"""
