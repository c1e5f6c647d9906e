"""EM on a graphics card by others: as one writes it in JAX, and gmmx."""

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
    return times, {"device": str(jax.devices()[0])}


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


PEERS = {"jax": jax_iterations, "gmmx": gmmx_iterations}
