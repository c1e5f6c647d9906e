"""A minute of work with an installed streamgmm: fit, formats, the commands, the report. Runs in a folder of its own."""

import importlib.metadata as metadata
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import dask.array as da
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import streamgmm as sg


def command(*words: str) -> None:
    subprocess.run([str(Path(sys.executable).with_name("streamgmm")), *words], check=True, stdout=subprocess.DEVNULL)


os.chdir(tempfile.mkdtemp())
home = Path(sg.__file__).parent
assert home.is_relative_to(sys.prefix), f"imported from {home}, expected an installation below {sys.prefix}"
assert metadata.version("streamgmm") == sg.__version__ and (home / "py.typed").exists()

X = np.random.default_rng(0).normal(size=(4_000, 2)) + np.repeat([[0.0], [8.0]], 2_000, axis=0)
gm = sg.GaussianMixture(2, random_state=0).fit(X)
assert sorted(np.bincount(gm.predict(X))) == [2_000, 2_000]

np.savetxt("table.csv", X, delimiter=",", header="a,b", comments="")
command("select", "table.csv", "--k-max", "3", "--report", "--out", "chosen")
assert sg.load("chosen").n_components == 2 and Path("chosen/report.html").stat().st_size > 50_000
command("predict", "chosen", "table.csv", "--out", "labels.csv")
assert len(Path("labels.csv").read_text().split()) == 4_001
command("data", "convert", "table.csv", "table.zarr")
pq.write_table(pa.table({"a": X[:, 0], "b": X[:, 1]}), "table.parquet")
for source in ("table.zarr", "table.parquet", da.from_array(X, chunks=(1_000, 2))):
    assert abs(sg.GaussianMixture(2, random_state=0).fit(source).lower_bound_ - gm.lower_bound_) < 1e-9
print("installed and tried:", sg.__version__, "with NumPy", np.__version__)
