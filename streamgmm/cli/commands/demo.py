"""`streamgmm demo`: a real job from photographs to a model, without a network."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from streamgmm.cli.terminal import Json, emit, message

QUICKSTART = {
    "model.n_components": 8,
    "model.covariance_type": "full",
    "model.reg_covar": 1e-6,
    "fit.tol": 1e-3,
    "fit.max_iter": 8,
    "fit.init_params": "kmeans",
    "fit.random_state": 0,
    "compute.memory_limit": "64MB",
}
"""The settings of configs/quickstart.toml, which an installed package does not carry; a test holds them equal."""


def demo(
    folder: Annotated[str, typer.Option("--dir", metavar="DIR", help="Where the store and the model go.")] = "demo",
    json: Json = False,
) -> None:
    """Fit all 8x8 patches of two photographs in half their memory.

    Cuts 531,720 grey patches (63 features, float32) into a Zarr store of 134 MB and fits 8 Gaussians with full
    covariances under a memory limit of 64 MB.
    """
    from streamgmm.cli.commands.fit import run_fit, summary
    from streamgmm.cli.config import load_config
    from streamgmm.cli.demo_data import write_patches

    store, model = Path(folder) / "patches.zarr", Path(folder) / "model"
    began = time.perf_counter()
    message("cutting all 8x8 patches of scikit-learn's two photographs (grey = mean of red, green, blue) ...")
    rows = write_patches(store)
    message(f"{store}: {rows:,} rows x 63 float32 ({time.perf_counter() - began:.1f} s)")
    config = load_config(None, QUICKSTART | {"data.path": str(store), "output.dir": str(model)})
    document, _ = run_fit(config)
    if json:
        emit(document)
        return
    print(summary(document))
    if not document["converged"]:
        print(f"\n{stopped(document['trace'])}")
    print(f"""
What to do next:
  streamgmm inspect {model}                     the components
  streamgmm report {model} --out patches.html   an interactive page: ellipses, iterations, anomalies
  streamgmm sample {model} -n 5                 new patches
  streamgmm fit configs/quickstart.toml -k 40   your own settings
  streamgmm fit YOUR_DATA.parquet -k 5 --out out/mine""")


def stopped(trace: list[float]) -> str:
    """Why the fit ended before its limit, in a sentence."""
    gain = trace[-1] - trace[-2] if len(trace) > 1 else float("nan")
    return (
        f"The fit ended after {len(trace)} iterations: the demo allows no more. The last one gained {gain:.2g} nats "
        "per row: the model is sound and\nready to use, and more iterations would improve it a little "
        "(streamgmm fit configs/quickstart.toml --set max_iter=100)."
    )
