"""`EpochWarnings`: what step size control has to say at the end of an epoch, once."""

import warnings

FAR_BELOW = 0.01  # a warning is given if steps are shorter than this part of the given rate


class EpochWarnings:
    """Warns of steps far below the given rate, and of a flow time that was not reached.

    Args:
        method: String, the name of the method's class.
        settings: Dictionary with the settings of the method.
    """

    def __init__(self, method, settings):
        self._method, self._settings = method, settings
        self._before = (0.0, 0, 0)  # at the end of the last epoch
        self._is_slow = self._is_unfinished = False

    def look(self, time, steps, unfinished):
        """Looks at what was counted from the beginning: flow time, accepted steps, and training
        steps that did not reach their flow time."""
        now = time, steps, unfinished
        time, steps, unfinished = (b - a for a, b in zip(self._before, now, strict=True))
        self._before = now
        self._look_at_sizes(time, steps)
        if unfinished > 0 and not self._is_unfinished:
            self._is_unfinished = True
            warnings.warn(
                f"{self._method} did not reach flow_time={self._settings['flow_time']} in "
                f"{unfinished} training steps of this epoch. `flow_time` in the logs has the time "
                f"reached. Give a larger `max_steps` (now {self._settings['max_steps']}; "
                "`accepted_steps` in the logs counts them), a shorter `flow_time`, or, where "
                "`too_large_steps` counts up, a larger `max_rejections`.",
                stacklevel=3,
            )

    def _look_at_sizes(self, time, steps):
        first = self._settings["first_step"]
        if first == "auto" or self._is_slow or steps == 0:
            return
        if self._settings["flow_time"] is not None:
            first = min(first, self._settings["flow_time"])
        if 0 < time / steps < FAR_BELOW * first:
            self._is_slow = True
            warnings.warn(
                f"{self._method} took steps of {time / steps:.1e} on average in this epoch, far "
                f"below the rate {first:.1e} that it was given: the tolerance holds them there, "
                "and training moves as little. Give a larger `rtol` and `atol`, fixed steps, "
                f"{self._method}(..., adaptive=False), or the inner optimizer alone.",
                stacklevel=4,
            )
