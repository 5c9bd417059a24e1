"""
Figures of the token factory.
"""
