"""
Print the factory's figures against their targets: ``make bench-factory``.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.factory.figures import attribution_figure, economics_figures
from benchmarks.machine import describe


def main() -> int:
    """
    Compute, print, and write JSON where asked; 1 when a target is missed.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write everything to this file; - prints it")
    arguments = parser.parse_args()
    figures = [attribution_figure(), *economics_figures()]
    root = Path(__file__).resolve().parents[2]
    document = {
        "machine": describe(root, data_root=root),
        "figures": [asdict(figure) | {"is_reached": figure.is_reached} for figure in figures],
    }
    text = json.dumps(document, indent=2)
    if arguments.json is not None and str(arguments.json) != "-":
        arguments.json.write_text(text + "\n", encoding="utf-8")
    if str(arguments.json) == "-":
        print(text)
    else:
        width = max(len(figure.name) for figure in figures)
        for figure in figures:
            sign = "<" if figure.is_below else "≤"
            verdict = "reached" if figure.is_reached else "MISSED"
            print(
                f"{figure.name:<{width}}  {figure.percent:7.3f} %  "
                f"{sign} {figure.target_percent:.2f} %  {verdict}  {figure.rows}; {figure.beside}"
            )
    return 0 if all(figure.is_reached for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
