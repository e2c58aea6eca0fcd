"""What every test starts from: the backend, its devices, the seeds and float32."""

import atexit
import os
import shutil
import tempfile
import zlib

# Devices for the tests of data parallelism. Both backends fix them when they start.
DEVICES = {"jax": 4, "tensorflow": 2, "torch": 1}

_flag = f"--xla_force_host_platform_device_count={DEVICES['jax']}"
if _flag.partition("=")[0] not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flag}".strip()

# JAX compiles most programs of the tests several times, in this process and in those it starts.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.mkdtemp(prefix="keras-cool-compiled-")
    atexit.register(shutil.rmtree, _compiled, ignore_errors=True)
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": _compiled,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }

import keras  # noqa: E402
import pytest  # noqa: E402

BACKEND = keras.backend.backend()
HAS_MULTI_OPTIMIZER = hasattr(keras.optimizers, "MultiOptimizer")

if BACKEND == "tensorflow":
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration() for _ in range(DEVICES["tensorflow"])],
    )


def pytest_report_header():
    version = __import__(BACKEND).__version__
    return f"keras: {keras.__version__}, backend: {BACKEND} {version}"


def pytest_addoption(parser):
    parser.addoption(
        "--all-cases",
        action="store_true",
        help="run all cases of the tests that are thinned out on JAX and TensorFlow",
    )


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--all-cases"):
        thin_out(config, items)
    for item in items:
        if item.get_closest_marker("multi_optimizer") and not HAS_MULTI_OPTIMIZER:
            item.add_marker(pytest.mark.skip(reason="Keras has no MultiOptimizer before 3.15"))
        marker = item.get_closest_marker("backend")
        if marker and BACKEND not in marker.args:
            reason = f"for {' and '.join(marker.args)} alone"
            item.add_marker(pytest.mark.skip(reason=reason))


_crashed = []  # the tests during which a process died


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem, report, sched):
    """Runs a test once more, in a new process, if its own has died. TensorFlow's died in a test on
    two replicas, once, and in none of 60 runs of it afterwards; what is ours comes again."""
    if crashitem not in _crashed:
        sched.mark_test_pending(crashitem)
        report.outcome = "rerun"
    _crashed.append(crashitem)


def pytest_terminal_summary(terminalreporter):
    for test in dict.fromkeys(_crashed):
        terminalreporter.write_line(f"The process died while it ran {test}, which was run again.")


def thin_out(config, items):
    """Deselects what the marker `thinned` leaves out: always the same cases, and on JAX others than
    on TensorFlow. PyTorch, which compiles nothing, runs all."""
    place = {"jax": 0, "tensorflow": 1}.get(BACKEND)
    left_out = []
    for item in items:
        marker = item.get_closest_marker("thinned")
        if marker and place is not None:
            (ways,) = marker.args
            if zlib.crc32(item.nodeid.encode()) % ways != place:
                left_out.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]


@pytest.fixture
def float64(monkeypatch):
    """Everything in float64, by `keras_cool.enable_float64`, and taken back afterwards.

    What other tests have left behind in float32 is no matter here: no check for it.
    """
    import keras_cool as kc
    from keras_cool import keras_private

    monkeypatch.setattr("keras_cool.float64._check_nothing_exists", lambda: None)
    before = dict(keras_private.BIT64_TO_BIT32_DTYPE)
    kc.enable_float64()
    yield
    keras_private.BIT64_TO_BIT32_DTYPE.update(before)
    if BACKEND == "jax":
        import jax

        jax.config.update("jax_enable_x64", False)


@pytest.fixture(autouse=True)
def fresh_keras():
    """Starts each test from the same seeds, in float32, on one device."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    keras.distribution.set_distribution(None)
