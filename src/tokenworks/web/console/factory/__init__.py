"""
The factory page: what the plant does now, what its machines can do, and what a token costs.

Owns: the page, its charts (SVG made here, no script draws), the form of a what-if.

Does not own: a figure. Fronts and unit economics come from the hub API, which computes them with
the functions of ``tokenworks factory``.

Invariants:
    The page works without a script: the form is sent, the charts are pictures, tables stand
    behind them. The script sends the form while a slider moves and asks for news.
    What is modelled, simulated, interpolated, clamped or out of reach says so where it stands.
"""
