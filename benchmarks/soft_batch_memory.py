"""The memory of a soft batch: a batch of 256 as 16 micro-batches of 16, against plain batches; and
with a loss over the whole batch, 1,024 as 16 micro-batches of 64.

Run it as `KERAS_BACKEND=jax python benchmarks/soft_batch_memory.py`; `--output FILE` also writes
the table. It needs Linux: the peak is read from /proc.
"""

import argparse
import os
import pathlib
import re
import resource
import subprocess
import sys
import time

import keras
import numpy as np

import keras_cool as kc
from harness import whole_batch_losses
from harness.timing import machine, settings

LARGE, SMALL = 256, 16
MB = 1e6
SOFT, PLAIN_SMALL, PLAIN_LARGE = "256 as 16 x 16", "plain 16", "plain 256"
CONTRASTED, PLAIN_64 = "1024 as 16 x 64", "plain 64"
# The size of the batch, and what `compile` is told besides.
SIDES = {
    PLAIN_SMALL: (SMALL, {}),
    SOFT: (LARGE, {"microbatch_size": SMALL}),
    PLAIN_LARGE: (LARGE, {}),
}
# The same under InfoNCE, which compares all samples.
WHOLE_SIDES = {
    PLAIN_64: (64, {}),
    CONTRASTED: (1024, {"microbatch_size": 64, "whole_batch_loss": True}),
}
LIMIT = 4.0  # of what a plain batch of 16 takes: a plain batch of 256 has no room in it
NO_MEMORY = "memory|OOM|bad_alloc|RESOURCE_EXHAUSTED"  # what the backends say of it
SECONDS = 300  # a process may take
# Large blocks go back to the system when they are freed, so that resident is what is in use.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def make_model(loss=None, **options):
    """Dense layers at each of 1024 positions: 51 thousand weights, and 2 million activations a
    batch of 16 and layer."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((1024, 2))
    h = inputs
    for _ in range(4):
        h = keras.layers.Dense(128, activation="relu")(h)
    h = keras.layers.GlobalAveragePooling1D()(h)
    model = kc.Model(inputs, keras.layers.Dense(10)(h))
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss=loss, **options)
    return model


def made(side):
    """The model of a side, and a batch for it."""
    if side in SIDES:
        batch_size, options = SIDES[side]
    else:
        batch_size, options = WHOLE_SIDES[side]
        options = {**options, "loss": whole_batch_losses.info_nce}
    return make_model(**options), *make_data(batch_size)


def make_data(samples):
    rng = np.random.default_rng(0)
    return rng.normal(size=(samples, 1024, 2)).astype("float32"), rng.integers(0, 10, samples)


def gradient_bytes():
    return sum(4 * int(np.prod(v.shape)) for v in make_model().trainable_variables)


def peak_by_xla(side):
    """The bytes that XLA plans for a compiled step beside its arguments."""
    import jax

    model, x, y = made(side)
    model.train_on_batch(x[:2], y[:2])  # makes all variables
    state = [
        [v.value for v in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )
    ]
    step = jax.jit(model.train_step, donate_argnums=0)
    plan = step.lower(tuple(state), (x, y)).compile().memory_analysis()
    return plan.temp_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes


def peak_on_cuda(side):
    """The bytes that PyTorch allocates on the device in three steps, over what was there before."""
    import torch

    train = prepared(side)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    train()
    return torch.cuda.max_memory_allocated() - before


def peak_resident(side):
    """The growth of the process' resident memory, at its peak, in three steps."""
    train = prepared(side)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = status("VmRSS")
    train()
    return status("VmHWM") - before


def prepared(side):
    """The function that trains three steps, its model built and trained on few samples before."""
    model, x, y = made(side)
    for samples in (2, 3):  # after two shapes TensorFlow has a graph for any
        model.train_on_batch(x[:samples], y[:samples])
    return lambda: [model.train_on_batch(x, y) for _ in range(3)]


def status(name):
    """A value of /proc/self/status, in bytes."""
    text = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", text)[1])


def measuring():
    """How the peak is measured on this backend: a function of a side, and what it is, in words."""
    backend = keras.backend.backend()
    if backend == "jax":
        return peak_by_xla, "temporary memory of the compiled step, by XLA's memory analysis"
    if backend == "torch" and __import__("torch").cuda.is_available():
        return peak_on_cuda, "torch.cuda.max_memory_allocated over three steps, without the state"
    return peak_resident, "growth of resident memory at its peak over three steps"


def train_within(side, limit):
    """Trains with at most `limit` more bytes of memory than the process has before."""
    train = prepared(side)
    if keras.backend.backend() == "jax":  # without a limit: its compiler needs memory of its own
        train()
        time.sleep(1)  # what a step took is freed after it has returned
    now = status("VmData")
    resource.setrlimit(resource.RLIMIT_DATA, (now + limit, now + limit))
    print(f"trains, loss {np.ravel(train()[-1])[0]:.4f}")


def in_a_process(*arguments):
    """Runs this script anew; what it printed last, or `None` where memory did not suffice."""
    command = [sys.executable, __file__, *map(str, arguments)]
    environment = {**os.environ, **MALLOC}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:  # a backend may wait for ever for memory
        return None
    if done.returncode == 0:
        return done.stdout.strip().splitlines()[-1]
    if not re.search(NO_MEMORY, done.stderr, re.IGNORECASE):
        raise RuntimeError(done.stderr)
    return None


def lines_of_peaks():
    _, what = measuring()
    peaks = {side: int(in_a_process("--peak", side)) for side in SIDES}
    gradients = gradient_bytes()
    ratio = (peaks[SOFT] - gradients) / peaks[PLAIN_SMALL]
    yield f"The {what}. One copy of the gradients is {gradients / MB:.2f} MB."
    yield ""
    yield "| a step | MB | of a plain batch of 16 | to reach |"
    yield "| --- | --- | --- | --- |"
    for side, peak in peaks.items():
        against = peak / peaks[PLAIN_SMALL]
        target = ""
        if side == SOFT:
            against, target = ratio, "1.15, one copy of the gradients taken off"
        yield f"| {side} | {peak / MB:.1f} | {against:.2f} | {target} |"
    yield ""
    yield from lines_of_whole_batch_loss(gradients)
    limit = int(LIMIT * peaks[PLAIN_SMALL])
    yield ""
    yield f"With {limit / MB:.0f} MB for three steps, a limit that the system sets (`RLIMIT_DATA`):"
    yield ""
    for side in SIDES:
        result = in_a_process("--train", side, "--limit", limit)
        yield f"- {side}: {result or 'fails, there is not enough memory'}"


def lines_of_whole_batch_loss(gradients):
    """What a loss over 1,024 samples takes of a plain batch of 64, the outputs counted too."""
    peaks = {side: int(in_a_process("--peak", side)) for side in WHOLE_SIDES}
    outputs = 4 * 10 * WHOLE_SIDES[CONTRASTED][0]
    ratio = peaks[CONTRASTED] / (peaks[PLAIN_64] + gradients + outputs)
    yield f"Under InfoNCE, with `whole_batch_loss`; the outputs are {outputs / MB:.2f} MB."
    yield ""
    yield "| a step | MB | of a plain batch of 64, a gradient and the outputs | to reach |"
    yield "| --- | --- | --- | --- |"
    yield f"| {PLAIN_64} | {peaks[PLAIN_64] / MB:.1f} | | |"
    yield f"| {CONTRASTED} | {peaks[CONTRASTED] / MB:.1f} | {ratio:.2f} | 1.25 |"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, help="write the table to this file too")
    parser.add_argument(
        "--peak", choices={**SIDES, **WHOLE_SIDES}, help="measure one side in this process"
    )
    parser.add_argument("--train", choices=SIDES, help="train one side in this process")
    parser.add_argument("--limit", type=int, help="in so many bytes")
    arguments = parser.parse_args()
    if arguments.peak:
        print(measuring()[0](arguments.peak))
    elif arguments.train:
        train_within(arguments.train, arguments.limit)
    else:
        lines = [machine(), "", f"`{settings()}python benchmarks/soft_batch_memory.py`", ""]
        text = "\n".join([*lines, *lines_of_peaks()])
        print(text)
        if arguments.output:
            arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
