"""One fit of one implementation in a process of its own; runs in the peer's environment and prints one JSON line.

    python worker.py PEER FOLDER KIND ITERATIONS THREADS SAVE

Only the iterations are timed, the first one included; for scikit-learn from the first E-step to the last M-step, since
its `fit` adds an E-step of its own. What a process does once (libraries looked up, code loaded, threads started) has
been done before, by a fit of a few rows: streamgmm's is reported as "begin".
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings

PEER, FOLDER, KIND, ITERATIONS, THREADS, SAVE = sys.argv[1:7]
ITERATIONS, THREADS = int(ITERATIONS), int(THREADS)
FEW = 20_000
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = str(THREADS)

import numpy as np  # noqa: E402

warnings.simplefilter("ignore")


def memory() -> tuple[float, float]:
    """Resident memory now, and its peak since `forget_peak`, in MB."""
    with open("/proc/self/status") as file:
        status = dict(line.split(":", 1) for line in file if line.startswith("Vm"))
    return int(status["VmRSS"].split()[0]) / 1024, int(status["VmHWM"].split()[0]) / 1024


def forget_peak() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def load() -> tuple[np.ndarray, ...]:
    return tuple(np.load(f"{FOLDER}/{name}.npy") for name in ("X", "weights", "means", "covariances"))


def precisions(covariances: np.ndarray) -> np.ndarray:
    return np.linalg.inv(covariances) if KIND in ("full", "tied") else 1.0 / covariances


def streamgmm():
    from sklearn.base import clone

    import streamgmm as sg
    from streamgmm.kernels import dispatch

    begin = time.perf_counter()
    dispatch.warmup()
    compiled = time.perf_counter() - begin
    X, weights, means, covariances = load()
    model = sg.GaussianMixture(
        len(weights), covariance_type=KIND, tol=0.0, reg_covar=0.0, max_iter=ITERATIONS, solver="exact",
        weights_init=weights, means_init=means, precisions_init=precisions(covariances), random_state=0, n_jobs=THREADS,
    )  # fmt: skip
    begin = time.perf_counter()
    clone(model).set_params(max_iter=1).fit(X[:FEW])
    began = time.perf_counter() - begin
    forget_peak()
    before = memory()[0]
    begin, cpu = time.perf_counter(), time.process_time()
    model.fit(X)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return {
        "seconds": seconds, "cpu": cpu, "iterations": model.n_iter_, "before": before, "peak": memory()[1],
        "compile": compiled, "begin": began, "form": dispatch.form(),
    }, (model.weights_, model.means_, model.covariances_)  # fmt: skip


def scikit_learn():
    from sklearn.mixture import GaussianMixture

    class Timed(GaussianMixture):
        begin = end = None

        def _e_step(self, X, **more):
            self.begin = self.begin or (time.perf_counter(), time.process_time())
            return super()._e_step(X, **more)

        def _m_step(self, X, log_resp, **more):
            super()._m_step(X, log_resp, **more)
            self.end = time.perf_counter(), time.process_time()

    X, weights, means, covariances = load()
    model = Timed(
        len(weights), covariance_type=KIND, tol=0.0, reg_covar=0.0, max_iter=ITERATIONS, weights_init=weights,
        means_init=means, precisions_init=precisions(covariances), random_state=0, init_params="random_from_data",
    )  # fmt: skip
    forget_peak()
    before = memory()[0]
    model.fit(X)
    return {
        "seconds": model.end[0] - model.begin[0], "cpu": model.end[1] - model.begin[1],
        "iterations": model.n_iter_, "before": before, "peak": memory()[1],
    }, (model.weights_, model.means_, model.covariances_)  # fmt: skip


def limit_onedal(cpu: int) -> None:
    """Let oneDAL use the code for this processor at most: 4 is AVX2, 6 AVX-512 (its `Environment::setCpuId`).

    It must be the first that oneDAL is asked for: what it has detected stays.
    """
    import ctypes

    library = ctypes.CDLL("libonedal_core.so.2")
    instance = library._ZN4daal8services10interface111Environment11getInstanceEv
    instance.restype = ctypes.c_void_p
    limit = library._ZN4daal8services10interface111Environment8setCpuIdEi
    limit.argtypes = [ctypes.c_void_p, ctypes.c_int]
    got = limit(instance(), cpu)
    if got != cpu:
        raise RuntimeError(f"oneDAL was to use the code for processor {cpu}, and uses that for {got}.")


def onedal():
    import daal4py

    if "STREAMGMM_BENCH_ONEDAL_CPU" in os.environ:
        limit_onedal(int(os.environ["STREAMGMM_BENCH_ONEDAL_CPU"]))
    daal4py.daalinit(THREADS)
    X, weights, means, covariances = load()
    K = len(weights)
    settings = {"covarianceStorage": "diagonal"} if KIND == "diag" else {}
    parts = [np.ascontiguousarray(c.reshape(1, -1) if KIND == "diag" else c) for c in covariances]
    start = weights.reshape(1, -1), means, parts
    algorithm = daal4py.em_gmm(K, maxIterations=ITERATIONS, accuracyThreshold=0.0, **settings)
    daal4py.em_gmm(K, maxIterations=1, accuracyThreshold=0.0, **settings).compute(X[:FEW], *start)
    forget_peak()
    before = memory()[0]
    begin, cpu = time.perf_counter(), time.process_time()
    result = algorithm.compute(X, *start)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return {
        "seconds": seconds, "cpu": cpu, "iterations": int(np.ravel(result.nIterations)[0]), "before": before,
        "peak": memory()[1],
    }, (np.ravel(result.weights), result.means, np.array([np.squeeze(c) for c in result.covariances]))  # fmt: skip


def pomegranate():
    import torch
    from pomegranate.distributions import Normal
    from pomegranate.gmm import GeneralMixtureModel

    torch.set_num_threads(THREADS)
    X, weights, means, covariances = load()
    X = torch.as_tensor(X)
    parts = zip(map(torch.as_tensor, means), map(torch.as_tensor, covariances), strict=True)
    kinds = [Normal(mean, covariance, covariance_type=KIND) for mean, covariance in parts]
    model = GeneralMixtureModel(kinds, priors=torch.as_tensor(weights), max_iter=ITERATIONS, tol=-1e300)
    forget_peak()
    before = memory()[0]
    begin = time.perf_counter()
    model.fit(X)
    seconds = time.perf_counter() - begin
    found = [d.means.numpy() for d in model.distributions], [d.covs.numpy() for d in model.distributions]
    return {
        "seconds": seconds, "iterations": ITERATIONS, "before": before,
        "peak": memory()[1],
    }, (model.priors.numpy(), *map(np.array, found))  # fmt: skip


def spark():
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    import pandas as pd
    from pyspark.ml.clustering import GaussianMixture
    from pyspark.ml.linalg import Vectors, VectorUDT
    from pyspark.sql import SparkSession
    from pyspark.sql.types import StructField, StructType

    X, weights, *_ = load()
    session = SparkSession.builder.master(f"local[{THREADS}]").config("spark.driver.memory", "8g").getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    assert pd
    schema = StructType([StructField("features", VectorUDT())])
    table = session.createDataFrame([(Vectors.dense(x),) for x in X], schema).cache()
    table.count()

    def fit(iterations: int) -> float:
        begin = time.perf_counter()
        GaussianMixture(k=len(weights), maxIter=iterations, tol=0.0, seed=0).fit(table)
        return time.perf_counter() - begin

    fit(1)
    seconds = fit(ITERATIONS + 1) - fit(1)
    return {"seconds": seconds, "iterations": ITERATIONS, "before": 0.0, "peak": 0.0}, None


RUN = {
    "streamgmm": streamgmm,
    "scikit-learn": scikit_learn,
    "oneDAL": onedal,
    "pomegranate": pomegranate,
    "Spark": spark,
}
result, parameters = RUN[PEER]()
if parameters is not None and SAVE != "-":
    np.savez(SAVE, weights=parameters[0], means=parameters[1], covariances=parameters[2])
print(json.dumps(result))
