"""Whether ranks compute the same gradients of the same samples."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import foreign
from .groups import RankError
from .sharded import Sharded


def check_gradients(
    opt: Sharded, loss_and_grads: Callable[[Any], tuple[Any, Any]], part: Any
) -> None:
    """Has every rank compute the gradients of the same samples, and compares their bits.

    All ranks call it, once before training. The bits of a run do not depend on which rank computes
    a leaf where this passes; products of matrices differ between BLAS libraries, the kernels that
    these choose by processor, and numbers of threads.

    Args:
        opt: of these ranks; nothing of it changes.
        loss_and_grads: as for `step`.
        part: some samples, the same on every rank.

    Raises:
        RankError: names ranks and parameters that differ from rank 0, and what computed them; or
            the rank whose ``loss_and_grads`` failed, which raises its own error.

    Example:
        >>> import numpy as np, fusestep as fs
        >>> from fusestep import distributed
        >>> params = {"w": np.ones(2)}
        >>> opt = distributed.Sharded(fs.SGD, params, group=distributed.alone(), leaves=1, lr=0.1)
        >>> distributed.check_gradients(opt, lambda x: (0.0, {"w": x.mean(0)}), np.ones((3, 2)))
    """
    failed: Exception | None = None
    digests: list[str] = []
    try:
        _, grads = loss_and_grads(part)
        arrays = opt._layout.structure.leaves(grads, "grads")
        digests = [hashlib.blake2b(_bytes(array), digest_size=8).hexdigest() for array in arrays]
    except Exception as error:
        failed = error
    own = [
        None if failed is None else f"{type(failed).__name__}: {failed}",
        digests,
        _computed_by(),
    ]
    heard = [json.loads(one) for one in opt._group.gather_bytes(json.dumps(own).encode())]
    if failed is not None:
        raise failed
    texts = [f"rank {rank}: {error}" for rank, (error, _, _) in enumerate(heard) if error]
    if not texts:
        texts = [
            f"rank {rank} ({machine}) has other gradients than rank 0 ({heard[0][2]}) of "
            + _named(opt, [a != b for a, b in zip(found, heard[0][1], strict=True)])
            for rank, (_, found, machine) in enumerate(heard)
            if found != heard[0][1]
        ]
    if texts:
        raise RankError("; ".join(texts))


def _bytes(array: Any) -> bytes:
    return b"" if array is None else np.ascontiguousarray(array).tobytes()


def _named(opt: Sharded, differ: list[bool]) -> str:
    paths = [path for path, other in zip(opt._layout.paths, differ, strict=True) if other]
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return ", ".join(foreign.where("params", path) for path in paths[:3]) + more


def _computed_by() -> str:
    """What decides the bits of a product of matrices, as far as it can be told."""
    try:
        from threadpoolctl import threadpool_info

        blas = [
            " ".join(str(one.get(key)) for key in ("internal_api", "version", "architecture"))
            + f", {one['num_threads']} threads"
            for one in threadpool_info()
            if one["user_api"] == "blas"
        ]
    except ImportError:
        threads = os.environ.get("OPENBLAS_NUM_THREADS", "unset")
        blas = [f"numpy {np.__version__}, OPENBLAS_NUM_THREADS {threads}"]
    return "; ".join([platform.machine(), *blas])
