"""Fits in a process that kills itself in the middle of a pass, and the process that goes on."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np

DRIVER = textwrap.dedent(
    """
    import os, pickle, signal, sys, warnings
    from pathlib import Path
    import numpy as np
    import streamgmm as sg
    from streamgmm.runtime.checkpoint import FileJournal

    warnings.simplefilter("ignore")
    folder, after = Path(sys.argv[1]), int(sys.argv[2])
    FileJournal.share = 1.0
    left = after
    def on_chunk(chunk):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    gm = pickle.loads((folder / "estimator.pickle").read_bytes())
    gm.set_params(checkpoint=folder / "checkpoints", n_jobs=2)
    for _ in gm.fit_steps(sg.open_source(folder / "rows.npy", chunk_rows=256), on_chunk=on_chunk):
        pass
    np.savez(folder / "out.npz", trace=gm.lower_bounds_, weights=gm.weights_, means=gm.means_,
             covariances=gm.mixture_.covariances, resumed=gm.report_["checkpoint"]["resumed"])
    """
)


def _run(folder, after):
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", DRIVER, str(folder), str(after)]
    environment = {**os.environ, "PYTHONPATH": root}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


def killed_and_resumed(estimator, rows, folder, *, chunks):
    """What a fit gives that was killed after each of these numbers of chunks, and went on each time.

    Returns
    -------
    dict of trace, weights, means, covariances (as the family keeps them)
    """
    np.save(folder / "rows.npy", rows)
    (folder / "estimator.pickle").write_bytes(pickle.dumps(estimator))
    for after in chunks:
        killed = _run(folder, after)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    ended = _run(folder, 0)
    assert ended.returncode == 0, ended.stderr
    with np.load(folder / "out.npz") as out:
        assert out["resumed"]
        return {name: out[name] for name in ("trace", "weights", "means", "covariances")}


def same_as_whole(found, estimator, rows):
    """Whether these are the bits of the same fit in one piece, here."""
    from streamgmm import open_source

    whole = estimator.fit(open_source(rows, chunk_rows=256))
    wanted = (whole.lower_bounds_, whole.weights_, whole.means_, whole.mixture_.covariances)
    return all(np.array_equal(found[name], value) for name, value in zip(found, wanted, strict=True))
