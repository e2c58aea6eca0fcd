"""Training without shuffling and without output."""


def fit(model, x, y=None, **arguments):
    """Trains on batches of 8 unless told otherwise; returns the logs of the epochs."""
    arguments = {"batch_size": 8, "shuffle": False, "verbose": 0, **arguments}
    return model.fit(x, y, **arguments).history
