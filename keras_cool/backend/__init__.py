"""What a step needs from the backend in use and `keras.ops` lacks: one folder a backend.

Each holds the same files, with the same names and signatures: `gradients`, `train_step`, `loops`,
`memory`, `updates`, `snapshots`, `scalars`, `vectors` and `rows`. The choice is made here, and
nowhere else.
"""

from keras_cool.supported_backend import BACKEND

if BACKEND == "jax":
    from keras_cool.backend.jax import (
        gradients,
        loops,
        memory,
        rows,
        scalars,
        snapshots,
        train_step,
        updates,
        vectors,
    )
elif BACKEND == "tensorflow":
    from keras_cool.backend.tensorflow import (  # type: ignore[no-redef]
        gradients,
        loops,
        memory,
        rows,
        scalars,
        snapshots,
        train_step,
        updates,
        vectors,
    )
else:
    from keras_cool.backend.torch import (  # type: ignore[no-redef]
        gradients,
        loops,
        memory,
        rows,
        scalars,
        snapshots,
        train_step,
        updates,
        vectors,
    )

__all__ = [
    "gradients",
    "loops",
    "memory",
    "rows",
    "scalars",
    "snapshots",
    "train_step",
    "updates",
    "vectors",
]
