"""Reading of an estimator: anything becomes a source, and questions to a model are answered chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial, wraps
from itertools import chain
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import TransformerMixin
from sklearn.utils.validation import validate_data

from streamgmm.em.kmeans.centres import Centres
from streamgmm.em.loop import seen
from streamgmm.errors import NonFiniteRowError, non_finite
from streamgmm.kernels.cuda.base import DeviceArray
from streamgmm.kernels.dispatch import part_of_pass
from streamgmm.mixture.mixture import Mixture, answers
from streamgmm.mixture.placement import empty_like
from streamgmm.runtime.device import DeviceBlock
from streamgmm.runtime.executors import Executor, Threads
from streamgmm.runtime.thread_limits import single_threaded_blas
from streamgmm.sources import array_source, is_array_like, open_features, refuse_unreadable, tell_features
from streamgmm.sources.arranged import matched, select_names
from streamgmm.sources.base import Chunk, Readable, Source, Writable
from streamgmm.sources.columns import row_dtype
from streamgmm.sources.formats.tables import (
    column_names,
    is_frame,
    no_number,
    of_plain_numbers,
    unnested,
    with_text_names,
    without_labels,
    without_numbers,
)
from streamgmm.sources.labels import tell_left_out
from streamgmm.sources.living import living
from streamgmm.utils.masked import unmasked
from streamgmm.utils.phases import phase
from streamgmm.utils.sample_weight import check_weight


class Reader:
    """Mixin for estimators with the parameters `executor` and `n_jobs`."""

    executor: Executor | str | None
    n_jobs: int | None
    n_features_in_: int
    _fewest_rows = 2
    """Rows that `fit` asks for at least."""

    def _source(self, X: Readable, sample_weight: ArrayLike | None, *, reset: bool) -> Source:
        """Anything readable as a source. What is in memory passes scikit-learn's checks, without a pass over it."""
        if is_array_like(X):
            rows = self._checked(X, reset)
            return array_source(rows, check_weight(sample_weight, len(rows)))
        if isinstance(X, Source) and sample_weight is not None:
            raise ValueError(
                f"sample_weight= belongs where the source is opened: open_source(..., weight=...). Got it with the "
                f"source {X.name}."
            )
        known = () if reset else self._known_names
        source = X if isinstance(X, Source) else _opened(X, sample_weight, known, tell=reset)
        if reset:
            self.n_features_in_ = source.n_features
            self._name_features(source.feature_names)
            return source
        if known:
            source = matched(source, known)
        if source.n_features != self.n_features_in_:
            raise ValueError(
                f"X has {source.n_features} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input."
            )
        return source

    def _training_source(self, X: Readable, sample_weight: ArrayLike | None, *, reset: bool = True) -> Source:
        """`_source` for those who sum over rows: what rows of weight 0 hold does not matter."""
        return living(self._source(X, sample_weight, reset=reset))

    @property
    def _known_names(self) -> tuple[str, ...]:
        """Names of the features of the fit; None where none were given."""
        return tuple(getattr(self, "feature_names_in_", ()))

    def _checked(self, X: Readable, reset: bool, fewest: int | None = None) -> NDArray[Any]:
        """An array of numbers by scikit-learn's rules, of at least `fewest` rows; frames without their row labels."""
        refuse_unreadable(X)
        X = unnested(unmasked(X))
        least = (self._fewest_rows if fewest is None else fewest) if reset else 1
        known = () if reset else self._known_names
        X, labels = without_labels(X, known)
        if reset:
            tell_left_out("X", labels)
        elif known and is_frame(X):
            # scikit-learn demands an error for columns of pandas in another order; the others are put in order.
            X = with_text_names(X, known) if hasattr(X, "iloc") else select_names(X, known)
        if is_frame(X) and not column_names(X):
            raise ValueError(
                f"Found a table with 0 feature(s) while a minimum of 1 is required by {type(self).__name__}. Expected "
                "at least one column of numbers."
            )
        X = of_plain_numbers(X)
        other = without_numbers(X)
        try:
            if any(no_number(what) for what in other.values()):
                raise TypeError("could not convert")  # or NumPy makes nanoseconds of times
            rows: NDArray[Any] = validate_data(
                self, X, reset=reset, dtype="numeric", ensure_all_finite=False, ensure_min_samples=least
            )
            if other and rows.dtype.kind == "O":
                raise TypeError("could not convert")
        except (ValueError, TypeError) as error:
            if not other or not ("could not convert" in str(error) or _is_about_types(error)):
                raise
            listed = ", ".join(f"{name!r} ({what})" for name, what in other.items())
            drop = "drop(columns=" if hasattr(X, "iloc") else "drop_columns(" if hasattr(X, "column_names") else "drop("
            raise ValueError(
                f"X: expected numbers; these columns hold none: {listed}. Leave them out with X.{drop}{list(other)}), "
                "or encode them as numbers."
            ) from None
        row_dtype(rows.dtype)
        return rows

    def _name_features(self, names: Sequence[Any] | None) -> None:
        """Remember what the features are called, or that nobody said."""
        self.__dict__.pop("feature_names_in_", None)
        if names is None:
            return
        if len(names) != self.n_features_in_:
            raise ValueError(f"Expected a name for each of {self.n_features_in_} features; got {len(names)} names.")
        self.feature_names_in_ = np.array([str(name) for name in names], dtype=object)

    def _seen(self, X: Readable, sample_weight: ArrayLike | None = None) -> Source:
        """Anything readable, as the fitted model takes its rows."""
        return self._source(X, sample_weight, reset=False)

    def _executor(self, source: Source | None = None) -> Executor:
        """Where tasks run; without a wish, a collection of Dask runs on the active client, all else in threads."""
        if isinstance(self.executor, Executor):
            return self.executor
        if self.executor == "dask" or (self.executor is None and source is not None and source.kind == "dask"):
            from streamgmm.runtime.dask import Dask, active_client

            if self.executor == "dask" or active_client() is not None:
                return Dask()
        return Threads(self.n_jobs)

    def _ask(
        self,
        X: Readable,
        model: object,
        question: str,
        source: Source | None = None,
        out: Writable | None = None,
    ) -> Any:
        """Answers of `model` to `question` (a method of it) for every row: an array for arrays, on their card where
        they lie on one, else an iterator, or a lazy dask array for collections of Dask.

        With `out`, anything with slices that can be set, the answers are written there and `out` is returned. `source`
        are the rows of X as the model takes them, where these are not X as it is opened.
        """
        source = self._source(X, None, reset=False) if source is None else source
        if out is None and source.kind == "dask":
            from streamgmm.runtime.dask import lazily

            return lazily(source, model, question, partial(answer, n_rows=source.most_rows))
        results = answers_by_chunk(source, model, question, self._executor())
        if out is None and source.kind != "device" and not is_array_like(X):
            return results
        first = next(results, None)
        if first is None:
            return out
        if out is not None:
            _check_out(out, first)
        if out is None:
            if len(first) == source.n_rows:
                return first
            out = empty_like(first, (source.n_rows or 0, *first.shape[1:]), first.dtype)
        row = 0
        for part in chain([first], results):
            if row + len(part) > len(out):
                raise ValueError(f"out has {len(out)} rows; X has more. Expected as many rows as X.")
            _check_range(out, part)
            out[row : row + len(part)] = part
            row += len(part)
        if row != len(out):
            raise ValueError(f"out has {len(out)} rows; X has {row}. Expected as many rows as X.")
        return out


def _check_out(out: Writable, answers: NDArray[Any]) -> None:
    """Refuse an `out` of a type or shape that cannot hold `answers` as they are."""
    shape, dtype = getattr(out, "shape", None), getattr(out, "dtype", None)
    if not hasattr(out, "__setitem__") or not hasattr(out, "__len__"):
        raise TypeError(
            f"out: expected an array that can be written to; got {type(out).__name__}. For a file give "
            "numpy.lib.format.open_memmap(path, mode='w+', dtype=..., shape=...), or a Zarr array."
        )
    if shape is not None and tuple(shape[1:]) != answers.shape[1:]:
        wanted = ", ".join(map(str, ("rows", *answers.shape[1:])))
        raise ValueError(f"out has shape {tuple(shape)}; expected ({wanted}{',' * (answers.ndim == 1)}).")
    if isinstance(dtype, np.dtype) and (dtype.kind not in "iuf" or (dtype.kind != "f" and answers.dtype.kind == "f")):
        raise ValueError(f"out has dtype {dtype}, which cannot hold the answers; expected {answers.dtype}.")


def _check_range(out: Writable, answers: NDArray[Any]) -> None:
    """Refuse labels that an `out` of whole numbers would wrap around."""
    dtype = getattr(out, "dtype", None)
    if isinstance(dtype, np.dtype) and dtype.kind in "iu" and dtype != answers.dtype and answers.size:
        low, high = answers.min(), answers.max()
        if low < np.iinfo(dtype).min or high > np.iinfo(dtype).max:
            raise ValueError(f"out has dtype {dtype}, which cannot hold labels from {low} to {high}; expected int64.")


class Transforming(Reader, TransformerMixin):
    """A `Reader` that transforms.

    Rows in memory come in the container that scikit-learn's `set_output` or `transform_output` asks for. What is made
    of paths and collections, a source, an iterator or a lazy array, stays what it is.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("transform", "fit_transform"):
            if name in cls.__dict__:
                setattr(cls, name, _contained_in_memory(cls.__dict__[name]))


def _contained_in_memory(wrapped: Callable[..., Any]) -> Callable[..., Any]:
    """A method of which scikit-learn has made `wrapped`, without that for what is not in memory."""
    plain: Callable[..., Any] = getattr(wrapped, "__wrapped__", wrapped)

    @wraps(plain)
    def method(self: Any, X: Readable, *args: Any, **kwargs: Any) -> Any:
        return (wrapped if is_array_like(X) else plain)(self, X, *args, **kwargs)

    return method


def _is_about_types(error: Exception) -> bool:
    return isinstance(error, TypeError) and "Feature names" not in str(error)


def _opened(X: Readable, weight: ArrayLike | None, known: Sequence[str], *, tell: bool) -> Source:
    """`X` as a source; row labels are read where the model knows them as features."""
    source = open_features(X, weight=weight)
    if tell:
        tell_features(source)
        return source
    unseen = {*source.left_out, *source.not_numbers} & set(known)
    return open_features(X, weight=weight, columns=list(known)) if unseen else source


def data_of(estimator: Reader, X: Readable, sample_weight: ArrayLike | None = None) -> Source:
    """Rows of the data of a fit as they are: before principal components, where the model is of those."""
    return estimator._source(X, sample_weight, reset=False)


def rows_of(estimator: Reader, X: Readable, sample_weight: ArrayLike | None = None) -> Source:
    """Anything readable, as the fitted model of `estimator` takes its rows."""
    return estimator._seen(X, sample_weight)


def stored_rows_of(estimator: Reader, X: Readable, sample_weight: ArrayLike | None = None) -> Source:
    """Anything readable, its features as `estimator` knows them and in their own units: before principal components."""
    return estimator._source(X, sample_weight, reset=False)


def ask(estimator: Reader, X: Readable, model: object, question: str) -> Any:
    """Answers of `model` to `question` (a method of it) for every row, read and given back as `estimator` does."""
    return estimator._ask(X, model, question)


def executor_of(estimator: Reader, source: Source | None = None) -> Executor:
    """Where tasks of `estimator` run."""
    return estimator._executor(source)


def model_of(estimator: Reader) -> Mixture | Centres | None:
    """The fitted model of `estimator`: a mixture, or the centres of k-means; None before `fit`."""
    return estimator.__dict__.get("mixture_", estimator.__dict__.get("_centres"))


def answers_by_chunk(source: Source, model: object, question: str, executor: Executor) -> Iterator[NDArray[Any]]:
    """Answers to `question` (a method of `model`), chunk by chunk, in order; a few chunks ahead are in work."""
    phase("reading and answering", source.n_chunks, "chunks")
    return executor.map(partial(answer, model, question, n_rows=source.most_rows), source.chunks())


def answer(model: Any, question: str, chunk: Chunk, *, n_rows: int | None) -> NDArray[Any]:
    """`question` asked of the rows of one chunk of a pass over `n_rows` rows.

    For rows that came from a card, the answers stay there.
    """
    if isinstance(chunk, DeviceBlock):
        with seen((model,), chunk) as ((view,), rows, _):
            found = answers(view, question, rows)
            stay = chunk.card.source.kind == "device"
            return found if stay else chunk.card.backend.download(cast(DeviceArray, found))
    rows, _ = chunk.load()
    try:
        with part_of_pass(n_rows), single_threaded_blas():
            return np.asarray(getattr(model, question)(rows))
    except NonFiniteRowError as error:
        raise non_finite(rows, error.row, chunk) from None
