"""`enable_float64`: one call that makes Keras compute in float64 on every backend."""

import gc

import keras

from keras_cool import backend, keras_private


def enable_float64():
    """Makes Keras compute in float64, on every backend: weights, gradients, losses, step sizes.

    `keras.config.set_floatx("float64")` is not enough: Keras' type promotion casts float64 down to
    float32 in many operations on JAX and PyTorch (`ops.tanh`, `ops.matmul`, `ops.mean`), and JAX
    has no float64 at all unless it is asked to. This function sets `floatx` and the dtype policy to
    float64, enables 64 bits in JAX, and ends that cast. Integers keep their 32 bits.

    Call it once, at the start of the program, before any layer, loss, metric or optimizer exists.
    It holds for the whole process and cannot be undone. A second call changes nothing.

    On a GPU float64 is slower, on most consumer cards 32 to 64 times. Apple's GPUs and Google's
    TPUs have none.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> kc.enable_float64()  # doctest: +SKIP
    >>> print(keras.ops.tanh(keras.ops.ones(())).dtype)  # doctest: +SKIP
    float64

    Returns:
        `None`.

    Raises:
        RuntimeError: If something exists already that computes in another precision. What is
            there stays as it is, and so does Keras.
    """
    if _is_enabled():
        return
    _check_nothing_exists()
    backend.gradients.allow_float64()
    keras_private.promote_to_float64()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")


def _is_enabled():
    settings = keras.config.floatx(), keras.config.dtype_policy().name
    return settings == ("float64", "float64") and keras_private.promotes_to_float64()


def _check_nothing_exists():
    gc.collect()  # what nobody holds any more is no reason to refuse
    found = [thing for thing in gc.get_objects() if _has_less_than_float64(thing)]
    if not found:
        return
    described = "; ".join(_described(thing) for thing in found[:5])
    more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
    raise RuntimeError(
        "`keras_cool.enable_float64()` was called when parts of a model existed already, and "
        f"those stay in the precision they were made in: {described}{more}. Call it at the start "
        "of the program, right after the imports and before the first layer, loss, metric or "
        "optimizer is made; in a notebook, restart the kernel first."
    )


def measured_dtype():
    """The dtype of norms, weights of batches and step sizes: float32 at least, float64 where the
    models have that."""
    return "float64" if keras.config.floatx() == "float64" else "float32"


def _has_less_than_float64(thing):
    # By the type itself: `isinstance` asks `__class__`, at which lazy modules start to load.
    if not issubclass(type(thing), _KINDS):
        return False
    dtype = getattr(thing, "dtype", None)  # `None` while `__init__` runs
    return dtype is not None and "float" in str(dtype) and "float64" not in str(dtype)


_KINDS = (keras.Variable, keras.Layer, keras.losses.Loss, keras.metrics.Metric)


def _described(thing):
    name = getattr(thing, "path", None) or thing.name
    return f"{type(thing).__name__} {name!r} ({thing.dtype})"
