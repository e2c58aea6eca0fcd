"""`reverse_gradient`: a tensor as it is, with the gradient of its negative."""

import math
from numbers import Real

import keras
from keras import ops


def reverse_gradient(x, scale=1.0):
    r"""Returns the tensor as it is, and reverses the gradient that flows back through it.

    \[ f(x) = x, \qquad \frac{\partial f}{\partial x} = -\mathrm{scale}. \]

    What `x` depends on ascends the loss that everything else descends. So two players of one
    loss, such as the networks of a GAN or weights and Lagrange multipliers, train in one model with
    one optimizer. It is also called a gradient reversal layer (domain-adversarial training). It
    works on the tensors of a functional model as well, which saves as any other. On TensorFlow,
    compile a game under a plain Keras optimizer with `jit_compile=True`: Keras' own step may
    otherwise update one player before it reads it for the gradient of the other.

    Example:

    >>> import keras
    >>> import keras_cool as kc
    >>> loss = kc.value_and_grad(lambda t: keras.ops.sum(kc.reverse_gradient(t[0]) ** 2))
    >>> value, gradients = loss([keras.ops.convert_to_tensor([3.0])])
    >>> float(value), float(gradients[0][0])
    (9.0, -6.0)

    Args:
        x: Floating-point tensor of any shape, or a `keras.KerasTensor`.
        scale: Float, what the reversed gradient is multiplied with: the strength of the adversary.
            Defaults to 1.0.

    Returns:
        A tensor like `x`.

    Raises:
        TypeError: If `scale` is not a finite number, or `x` has no floating-point dtype.

    Reference:
        Ganin and Lempitsky, 2015, "Unsupervised Domain Adaptation by Backpropagation", section 3.
    """
    is_number = isinstance(scale, Real) and not isinstance(scale, bool)
    if not is_number or not math.isfinite(scale):
        raise TypeError(
            "`scale` of reverse_gradient is a finite number, for example 0.1. It was given "
            f"{scale!r}."
        )
    if not isinstance(x, keras.KerasTensor):
        x = ops.convert_to_tensor(x)
    dtype = keras.backend.standardize_dtype(x.dtype)
    if "float" not in dtype:
        raise TypeError(
            f"reverse_gradient was given a tensor of dtype {dtype}, through which no gradient "
            "flows. Reverse the gradient of what is computed from it."
        )
    fixed = ops.stop_gradient(x)
    return fixed - scale * (x - fixed)
