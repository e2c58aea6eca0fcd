"""Who accumulates gradients correctly where sequences have unequal lengths.

A small language model takes 8 updates of SGD. Each is made of 4 batches of 4 padded sequences, and
has to be that of one batch of 16: the gradient of the mean over all its tokens. The reference is
that in NumPy, in float64.

Run it as `KERAS_BACKEND=torch python benchmarks/who_accumulates_correctly.py`; `--output FILE` also
writes the table. `pip install transformers accelerate lightning optax jax` adds their rows.
"""

import argparse
import importlib.metadata
import logging
import pathlib
import tempfile
import warnings

import keras
import numpy as np
import torch

import keras_cool as kc
from harness.timing import machine, settings

UPDATES, COUNT, SMALL = 8, 4, 4
LARGE = COUNT * SMALL
LENGTH, VOCABULARY, WIDTH = 48, 32, 16
RATE = 2.0
PADDING, IGNORED = 0, -100  # among the inputs; among the targets, where PyTorch leaves them out
EXACT = 1e-5  # the rounding of float32


def make_data():
    """Padded sequences: most are short, a few are long. Tokens follow each other by a rule."""
    rng = np.random.default_rng(0)
    lengths = np.minimum(2 + rng.geometric(0.1, UPDATES * LARGE), LENGTH)
    tokens = rng.integers(1, VOCABULARY, (UPDATES * LARGE, LENGTH + 1))
    for t in range(LENGTH):
        follows = rng.random(len(tokens)) < 0.5 + 0.5 * (lengths > 12)  # long texts are simpler
        tokens[follows, t + 1] = tokens[follows, t] * 5 % (VOCABULARY - 1) + 1
    is_token = np.arange(LENGTH) < lengths[:, None]
    return np.where(is_token, tokens[:, :-1], PADDING), tokens[:, 1:], is_token


X, Y, IS_TOKEN = make_data()


def first_weights():
    """Those of an embedding, and of the kernel and bias of a dense layer."""
    rng = np.random.default_rng(1)
    shapes = [(VOCABULARY, WIDTH), (WIDTH, VOCABULARY), (VOCABULARY,)]
    return [rng.normal(0, 0.5, shape) for shape in shapes]


def reference():
    """The weights after the updates with the large batch, by NumPy."""
    embedding, kernel, bias = first_weights()
    for i in range(0, len(X), LARGE):
        x, y = X[i : i + LARGE][IS_TOKEN[i : i + LARGE]], Y[i : i + LARGE][IS_TOKEN[i : i + LARGE]]
        h = embedding[x]
        logits = h @ kernel + bias
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        error = (p - np.eye(VOCABULARY)[y]) / len(y)
        of_embedding = np.zeros_like(embedding)
        np.add.at(of_embedding, x, error @ kernel.T)
        kernel, bias = kernel - RATE * h.T @ error, bias - RATE * error.sum(axis=0)
        embedding = embedding - RATE * of_embedding
    return [embedding, kernel, bias]


def with_keras(cls, optimizer, batch_size, callbacks=(), **options):
    """The weights after training a Keras model, whose mask leaves the padding out."""
    inputs = keras.Input((LENGTH,), dtype="int32")
    h = keras.layers.Embedding(VOCABULARY, WIDTH, mask_zero=True)(inputs)
    model = cls(inputs, keras.layers.Dense(VOCABULARY)(h))
    model.set_weights(first_weights())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, **options)
    model.fit(X, Y, batch_size=batch_size, shuffle=False, verbose=0, callbacks=list(callbacks))
    return model.get_weights()


def large_batch():
    return with_keras(keras.Model, keras.optimizers.SGD(RATE), LARGE)


def microbatch_size():
    return with_keras(kc.Model, keras.optimizers.SGD(RATE), LARGE, microbatch_size=SMALL)


def accumulate_with_mixin():
    optimizer = kc.optimizers.Accumulate(keras.optimizers.SGD(RATE), COUNT)
    return with_keras(kc.Model, optimizer, SMALL)


def accumulate():
    optimizer = kc.optimizers.Accumulate(keras.optimizers.SGD(RATE), COUNT)
    return with_keras(keras.Model, optimizer, SMALL, [kc.callbacks.FinishWindow()])


def by_keras():
    optimizer = keras.optimizers.SGD(RATE, gradient_accumulation_steps=COUNT)
    return with_keras(keras.Model, optimizer, SMALL)


def by_optax():
    import jax
    import jax.numpy as jnp
    import optax

    def loss(weights, x, y, is_token):
        embedding, kernel, bias = weights
        logits = embedding[x] @ kernel + bias
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return (losses * is_token).sum() / is_token.sum()

    weights = [jnp.array(w, "float32") for w in first_weights()]
    optimizer = optax.MultiSteps(optax.sgd(RATE), every_k_schedule=COUNT)
    state = optimizer.init(weights)
    for batch in small_batches():
        updates, state = optimizer.update(jax.grad(loss)(weights, *batch), state, weights)
        weights = optax.apply_updates(weights, updates)
    return weights


class LanguageModel(torch.nn.Module):
    """The same model in PyTorch."""

    def __init__(self):
        super().__init__()
        self.weights = torch.nn.ParameterList(
            torch.tensor(w, dtype=torch.float32) for w in first_weights()
        )

    def logits(self, x):
        embedding, kernel, bias = self.weights
        return torch.nn.functional.embedding(x, embedding) @ kernel + bias

    def loss(self, x, targets, reduction="mean"):
        logits = self.logits(x).reshape(-1, VOCABULARY)
        entropy = torch.nn.functional.cross_entropy
        return entropy(logits, targets.reshape(-1), ignore_index=IGNORED, reduction=reduction)

    def as_arrays(self):
        return [w.detach().numpy() for w in self.weights]


TARGETS = np.where(IS_TOKEN, Y, IGNORED)


def small_batches():
    for i in range(0, len(X), SMALL):
        yield X[i : i + SMALL], Y[i : i + SMALL], IS_TOKEN[i : i + SMALL]


def windows():
    """The batches of each update, as tensors."""
    x, targets = torch.tensor(X), torch.tensor(TARGETS)
    for i in range(0, len(X), LARGE):
        parts = range(i, i + LARGE, SMALL)
        yield [(x[j : j + SMALL], targets[j : j + SMALL]) for j in parts]


def loop_of_means():
    """The loop of most tutorials: each loss is a mean, and divided by the number of batches."""
    model = LanguageModel()
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    for window in windows():
        optimizer.zero_grad()
        for x, targets in window:
            (model.loss(x, targets) / COUNT).backward()
        optimizer.step()
    return model.as_arrays()


def loop_over_tokens():
    """The tokens of all batches are counted before the first of them is computed."""
    model = LanguageModel()
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    for window in windows():
        tokens = sum((targets != IGNORED).sum() for _, targets in window)
        optimizer.zero_grad()
        for x, targets in window:
            (model.loss(x, targets, "sum") / tokens).backward()
        optimizer.step()
    return model.as_arrays()


class Sequences(torch.utils.data.IterableDataset):
    """The sequences in their order, as `transformers` wants them."""

    def __iter__(self):
        for x, targets in zip(X, TARGETS, strict=True):
            yield {"input_ids": torch.tensor(x), "labels": torch.tensor(targets)}


def by_transformers(model):
    import transformers

    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=SMALL,
            gradient_accumulation_steps=COUNT,
            max_steps=UPDATES,
            optim="sgd",
            learning_rate=RATE,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        transformers.Trainer(model=model, args=arguments, train_dataset=Sequences()).train()
    return model.as_arrays()


def transformers_with_count():
    """A model that divides by the number of tokens that the trainer hands it, as theirs do."""
    from transformers.loss.loss_utils import fixed_cross_entropy

    class Model(LanguageModel):
        def forward(self, input_ids, labels, **kwargs):
            logits = self.logits(input_ids).reshape(-1, VOCABULARY)
            loss = fixed_cross_entropy(logits, labels.reshape(-1), ignore_index=IGNORED, **kwargs)
            return {"loss": loss}

    return by_transformers(Model())


def transformers_without_count():
    """A model of one's own that returns its mean loss, as all did before October 2024."""

    class Model(LanguageModel):
        def forward(self, input_ids, labels):
            return {"loss": self.loss(input_ids, labels)}

    return by_transformers(Model())


def by_lightning():
    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    model = LanguageModel()

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def training_step(self, batch, index):
            return self.model.loss(*batch)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), RATE)

    data = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(TARGETS))
    trainer = lightning.Trainer(
        accumulate_grad_batches=COUNT,
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), torch.utils.data.DataLoader(data, batch_size=SMALL))
    return model.as_arrays()


# Whose it is, what is run, and how.
WAYS = [
    ("keras", "one batch of 16", large_batch),
    ("keras_cool", "`microbatch_size=4`", microbatch_size),
    ("keras_cool", "`Accumulate(steps=4)` with the mixin", accumulate_with_mixin),
    ("keras_cool", "`Accumulate(steps=4)` without the mixin", accumulate),
    ("keras", "`gradient_accumulation_steps=4`", by_keras),
    ("optax", "`MultiSteps`", by_optax),
    ("torch", "a loop over mean losses", loop_of_means),
    ("torch", "a loop that counts the tokens first", loop_over_tokens),
    ("transformers", "`Trainer`, a loss that takes the count", transformers_with_count),
    ("transformers", "`Trainer`, a mean loss", transformers_without_count),
    ("lightning", "`accumulate_grad_batches=4`", by_lightning),
]


def distance(weights, expected):
    """The relative difference of all weights."""
    difference = sum(float(((np.asarray(w) - e) ** 2).sum()) for w, e in zip(weights, expected))
    return (difference / sum(float((e**2).sum()) for e in expected)) ** 0.5


def loss_of(weights):
    """The mean loss over all tokens of the data."""
    embedding, kernel, bias = (np.asarray(w, "float64") for w in weights)
    logits = embedding[X[IS_TOKEN]] @ kernel + bias
    chosen = np.take_along_axis(logits, Y[IS_TOKEN][:, None], axis=1)[:, 0]
    return float((np.log(np.exp(logits).sum(axis=1)) - chosen).mean())


def version(package):
    return kc.__version__ if package == "keras_cool" else importlib.metadata.version(package)


def lines():
    expected = reference()
    tokens = IS_TOKEN.sum(axis=1).reshape(-1, SMALL).sum(axis=1)
    yield f"The small batches have {tokens.min()} to {tokens.max()} tokens."
    yield ""
    yield "| | | weights, relative difference | loss over all tokens | correct |"
    yield "| --- | --- | --- | --- | --- |"
    yield f"| NumPy, float64 | one batch of 16 | | {loss_of(expected):.4f} | |"
    for package, name, way in WAYS:
        try:
            weights = way()
        except ImportError:
            yield f"| {package} | {name} | not run: `pip install {package}` | | |"
            continue
        error = distance(weights, expected)
        correct = "yes" if error < EXACT else "**no**"
        loss = f"{loss_of(weights):.4f}"
        yield f"| {package} {version(package)} | {name} | {error:.1e} | {loss} | {correct} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, help="write the table to this file too")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    text = "\n".join(
        [
            machine(),
            "",
            f"`{settings()}python benchmarks/who_accumulates_correctly.py`",
            "",
            *lines(),
        ]
    )
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
