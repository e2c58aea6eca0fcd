"""What the named Runge-Kutta methods have in common: a tableau of their own, and fewer settings."""

import math

from keras_cool.optimizers.runge_kutta import RungeKutta
from keras_cool.optimizers.tableau import Tableau


class FixedStepMethod(RungeKutta):
    """A method without an embedded error; a subclass has its `tableau`."""

    tableau: Tableau

    def __init__(self, optimizer, name=None):
        super().__init__(optimizer, type(self).tableau, name=name)

    def get_config(self):
        config = super().get_config()
        return {key: config[key] for key in ("name", "optimizer")}


class EmbeddedMethod(RungeKutta):
    """A method with an embedded error; a subclass has its `tableau`."""

    tableau: Tableau

    def __init__(
        self,
        optimizer=None,
        *,
        rtol=1e-3,
        atol=1e-6,
        first_step=None,
        max_step=math.inf,
        adaptive=True,
        controller="I",
        max_rejections=10,
        full_batch=False,
        name=None,
    ):
        super().__init__(
            optimizer,
            type(self).tableau,
            adaptive=adaptive,
            rtol=rtol,
            atol=atol,
            first_step=first_step,
            max_step=max_step,
            controller=controller,
            max_rejections=max_rejections,
            full_batch=full_batch,
            name=name,
        )

    def get_config(self):
        config = super().get_config()
        del config["tableau"]
        return config
