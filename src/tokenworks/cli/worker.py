"""
``tokenworks worker``: the periodic jobs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokenworks.settings import load_settings

app = typer.Typer(help="Run the periodic jobs.")


@app.command()
def worker(
    data: Annotated[Path | None, typer.Option("--data", help="The data directory.")] = None,
) -> None:
    """
    Expire holds, collect what limits owe, take checkpoints, archive, read meters, post energy.
    """
    import uvloop

    from tokenworks.bootstrap.worker_process import run_worker

    uvloop.run(run_worker(load_settings({"data_dir": data})))
