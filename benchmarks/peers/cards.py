"""EM on a graphics card by others: as one writes it in JAX, gmmx, scikit-learn on torch, pomegranate and torchgmm."""

from __future__ import annotations

import time

import numpy as np

from benchmarks.data.mixtures import draw, mixture

REPEATS = 5


def jax_iterations(n, D=8, K=16):
    """Seconds of an iteration of EM as one writes it in JAX, float64: einsum over rows, components and features."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp
    from jax.scipy.linalg import solve_triangular

    weights, means, covariances = mixture(D, K, "full")
    X = jnp.asarray(draw(n, (weights, means, covariances), np))

    @jax.jit
    def step(X, log_pi, mu, sigma):
        lower = jnp.linalg.cholesky(sigma)
        upper = jax.vmap(lambda one: solve_triangular(one, jnp.eye(D), lower=True).T)(lower)
        y = jnp.einsum("nd,kde->nke", X, upper) - jnp.einsum("kd,kde->ke", mu, upper)
        log_det = jnp.log(jnp.diagonal(upper, axis1=1, axis2=2)).sum(1)
        logits = log_pi + log_det - 0.5 * (y**2).sum(2) - 0.5 * D * jnp.log(2 * jnp.pi)
        r = jax.nn.softmax(logits, axis=1)
        mass = r.sum(0)
        mean = r.T @ X / mass[:, None]
        second = jnp.einsum("nk,nd,ne->kde", r, X, X) / mass[:, None, None]
        return jnp.log(mass / len(X)), mean, second - mean[:, :, None] * mean[:, None] + 1e-6 * jnp.eye(D)

    state = jnp.log(weights), jnp.asarray(means), jnp.asarray(covariances)
    for _ in range(2):
        jax.block_until_ready(step(X, *state))
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        now = state
        for _ in range(10):
            now = step(X, *now)
        jax.block_until_ready(now)
        times.append((time.perf_counter() - began) / 10)
    return times, {"device": str(jax.devices()[0]), "dtype": "float64"}


def gmmx_iterations(n, D=8, K=16):
    import gmmx
    import jax
    import jax.numpy as jnp

    weights, means, covariances = mixture(D, K, "full")
    X = jnp.asarray(draw(n, (weights, means, covariances), np, "float32"))
    model = gmmx.GaussianMixtureModelJax.from_squeezed(
        means=means.astype("float32"),
        covariances=covariances.astype("float32"),
        weights=weights.astype("float32"),
        covariance_type="full",
    )
    times = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        done = gmmx.EMFitter(tol=0.0, max_iter=10).fit(x=X, gmm=model)
        jax.block_until_ready(done.gmm.means.values if hasattr(done.gmm.means, "values") else done.gmm)
        times.append((time.perf_counter() - began) / 10)
    return times[1:], {"version": getattr(gmmx, "__version__", "?"), "dtype": "float32"}


def _per_iteration(fit, few=2, many=7):
    """Seconds of an iteration from whole fits of few and many of them: what they do besides is in both."""
    import torch

    def seconds(iterations):
        torch.cuda.synchronize()
        began = time.perf_counter()
        done = fit(iterations)
        torch.cuda.synchronize()
        return time.perf_counter() - began, done

    seconds(few)
    times = []
    for _ in range(REPEATS):
        (short, before), (long, after) = seconds(few), seconds(many)
        times.append((long - short) / (after - before))
    return times


def sklearn_iterations(n, D=8, K=16):
    """scikit-learn through the array API, on tensors of torch, float64."""
    import os

    os.environ["SCIPY_ARRAY_API"] = "1"  # asked when SciPy is imported
    import sklearn
    import torch
    from sklearn.mixture import GaussianMixture

    sklearn.set_config(array_api_dispatch=True)
    weights, means, covariances = mixture(D, K, "full")
    X = torch.tensor(draw(n, (weights, means, covariances), np), device="cuda")
    given = {"weights": weights, "means": means, "precisions": np.linalg.inv(covariances)}
    start = {f"{name}_init": torch.tensor(value, device="cuda") for name, value in given.items()}

    def fit(iterations):
        GaussianMixture(K, tol=0.0, max_iter=iterations, init_params="random_from_data", **start).fit(X)
        return iterations

    return _per_iteration(fit), {"version": sklearn.__version__, "dtype": "float64"}


def pomegranate_iterations(n, D=8, K=16):
    import sys
    from types import ModuleType

    import torch

    chooser = ModuleType("apricot")  # chooses rows for other starts than the one given here
    chooser.FacilityLocationSelection = chooser.FeatureBasedSelection = object
    sys.modules.setdefault("apricot", chooser)
    from pomegranate.distributions import Normal
    from pomegranate.gmm import GeneralMixtureModel

    weights, means, covariances = mixture(D, K, "full")
    X = torch.tensor(draw(n, (weights, means, covariances), np, "float32"), device="cuda")
    parts = [Normal(*(torch.tensor(v[k], dtype=torch.float32) for v in (means, covariances))) for k in range(K)]
    prior = torch.tensor(weights / weights.sum(), dtype=torch.float32)
    model = GeneralMixtureModel(parts, priors=prior, check_data=False).cuda()

    def fit(iterations):
        for _ in range(iterations):
            model.summarize(X)
            model.from_summaries()
        return iterations

    return _per_iteration(fit), {"dtype": "float32"}


def torchgmm_iterations(n, D=8, K=16):
    import logging

    import torch
    from torchgmm.bayes import GaussianMixture

    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    weights, means, covariances = mixture(D, K, "full")
    X = torch.tensor(draw(n, (weights, means, covariances), np, "float32"), device="cuda")
    start = torch.tensor(means, dtype=torch.float32)

    def fit(iterations):
        trainer = {"accelerator": "gpu", "devices": 1, "max_epochs": iterations, "enable_progress_bar": False}
        model = GaussianMixture(
            K, covariance_type="full", init_means=start, convergence_tolerance=1e-30, trainer_params=trainer
        )
        model.fit(X)
        return int(model.num_iter_)

    return _per_iteration(fit), {"dtype": "float32"}


PEERS = {
    "jax": jax_iterations,
    "gmmx": gmmx_iterations,
    "scikit-learn": sklearn_iterations,
    "pomegranate": pomegranate_iterations,
    "torchgmm": torchgmm_iterations,
}
