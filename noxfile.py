"""The checks of keras_cool: `nox -s tests`, `nox -s "tests(jax)"`, `nox -s tests -- -k heun`.

Every session makes an environment of its own with pip, at the versions of constraints.txt;
`nox -l` lists them. The session `gpu` alone uses the Python that is there.
"""

import re
import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "tests"]

ROOT = Path(__file__).parent
CONSTRAINTS = ROOT / "constraints.txt"
BACKENDS = {"jax": "jax", "tensorflow": "tensorflow-cpu", "torch": "torch"}
# What the tests compare with; TensorBoard, through which Keras' callback writes, comes with it.
ALSO_TESTED = {"jax": ["optax"], "tensorflow": ["tensorboard"], "torch": ["pytorch-optimizer"]}
# The tests are spread over the processors; threads of PyTorch's would get in each other's way.
WORKERS = ["-n", "auto", "--maxprocesses", "4"]
SLOWEST = ["--durations=20", "--durations-min=1"]  # named at the end, where they take a second
ONE_THREAD_A_WORKER = {"OMP_NUM_THREADS": "1"}

backends = nox.parametrize("backend", list(BACKENDS), ids=list(BACKENDS))


@nox.session(tags=["ci"])
@backends
def tests(session, backend):
    """The tests on the CPU, in an environment with one backend."""
    install(session, ".[test]", BACKENDS[backend], *ALSO_TESTED[backend])
    assert_only(session, backend)
    run_pytest(session, backend)


@nox.session
@backends
def tests_oldest(session, backend):
    """The same with the oldest Keras that pyproject.toml allows."""
    oldest = oldest_keras()
    packages = [BACKENDS[backend], *ALSO_TESTED[backend]]
    install(session, ".[test]", *packages, constraints=with_keras(session, oldest))
    session.log(f"Keras {oldest}, the oldest that pyproject.toml allows")
    assert_only(session, backend)
    run_pytest(session, backend)


@nox.session(tags=["ci"])
def keras_trainer_tests(session):
    """Keras' own trainer tests with the mixin; `-- jax` for that backend, `-- --all-variants`."""
    # They import jax on every backend, and the other two for their data sets.
    install(session, ".", "pytest", "pytest-xdist", "grain", *BACKENDS.values())
    chosen, arguments = chosen_backends(session)
    for backend in chosen:
        session.run(
            "python",
            "tests/keras_trainer/compare.py",
            *WORKERS,
            *arguments,
            env=environment(session, backend) | ONE_THREAD_A_WORKER,
        )


@nox.session(tags=["ci"])
def keras_hub(session):
    """The tests of models from keras-hub; `-- jax` for that backend alone."""
    # keras-hub brings TensorFlow along, so an environment with one backend cannot hold it.
    install(session, ".[test]", "keras-hub", "jax", "torch")
    chosen, arguments = chosen_backends(session)
    for backend in chosen:
        session.run(
            "pytest", "tests/test_keras_hub.py", *arguments, env=environment(session, backend)
        )


@nox.session(venv_backend="none")
@backends
def gpu(session, backend):
    """The tests on the accelerator of this machine, with the Python that is on the path."""
    env = environment(session, backend, cpu=False)
    python = shutil.which("python") or sys.executable
    asked = session.run(python, "tests/accelerator.py", env=env, silent=True)
    answer = asked.strip().splitlines()[-1]
    if not answer.startswith("accelerator: "):
        session.skip(f"no accelerator, nothing was run: {answer}")
    session.log(f"{backend} on {answer}")
    session.run(python, "-m", "pytest", *session.posargs, env=env)


@nox.session(tags=["ci"])
def lint(session):
    """Format, lint and types; `nox -s lint -- --fix` fixes what can be fixed."""
    install(session, "ruff", "mypy", "numpy")
    fix = "--fix" in session.posargs
    session.run("ruff", "format", *([] if fix else ["--check"]), ".")
    session.run("ruff", "check", *(["--fix"] if fix else []), ".")
    session.run("mypy")


@nox.session(tags=["ci"])
def docs(session):
    """The documentation, into site/; `nox -s docs -- serve` shows it while it is written."""
    install(session, "mkdocs-material", "mkdocstrings[python]", "ruff")
    session.run(
        "mkdocs",
        *(session.posargs or ["build", "--strict"]),
        env={"NO_MKDOCS_2_WARNING": "1"},  # of a version to come, which would need another theme
    )


# What the benchmarks compare with.
COMPARED = {"jax": ["optax", "diffrax"], "tensorflow": [], "torch": ["torchdiffeq"]}


@nox.session
@backends
def benchmarks(session, backend):
    """The scripts in benchmarks/, or those named: `nox -s "benchmarks(jax)" -- step_cost.py`."""
    install(session, ".[examples]", "scipy", BACKENDS[backend], *COMPARED[backend])
    named = [a for a in session.posargs if a.endswith(".py")]
    arguments = [a for a in session.posargs if a not in named]
    for script in named or sorted(p.name for p in Path("benchmarks").glob("*.py")):
        path = Path("benchmarks") / Path(script).name
        session.run("python", str(path), *arguments, env=environment(session, backend))


PICTURES = Path("docs", "images")
# What makes a run of an example a small one, unless it is `--epochs=1`.
SMALLEST = {
    "physics_informed": ["--evaluations=60", "--adam=20"],
    "trajectories": ["--steps=4"],
    "word2vec": ["--epochs=1", "--size=8", "--sample=1e-6"],
}


@nox.session
@backends
def gallery(session, backend):
    """The examples that draw a picture, or those named; `-- --quick` runs each as small as it goes.

    JAX's pictures are those of the docs, and replaced; the other backends draw into runs/gallery/.
    """
    install(session, ".[examples]", BACKENDS[backend])
    quick = "--quick" in session.posargs
    folder = PICTURES if backend == "jax" and not quick else Path("runs", "gallery", backend)
    drawing = {
        path.stem: option for path in Path("examples").glob("*.py") if (option := draws(path))
    }
    named = [Path(a).stem for a in session.posargs if a != "--quick"]
    if unknown := sorted(set(named) - set(drawing)):
        session.error(f"No example draws a picture: {unknown}. There are {sorted(drawing)}.")
    for name in named or sorted(drawing):
        smallest = SMALLEST.get(name, ["--epochs=1"]) if quick else []
        output = f"{drawing[name]}={folder / name}.png"
        env = environment(session, backend)
        session.run("python", f"examples/{name}.py", *smallest, output, env=env)


def draws(script):
    """The option of an example that names the file of its picture, or `None`."""
    found = re.search(r'"(--[\w-]+)",\s*metavar="FILE\.png"', script.read_text(encoding="utf-8"))
    return found and found[1]


def install(session, *requirements, constraints=CONSTRAINTS):
    """Installs into the session's environment, at the pinned versions."""
    session.install("-c", str(constraints), *requirements)


def environment(session, backend, cpu=True):
    """The environment variables of a run: nothing of the user's own Keras settings."""
    variables = {
        "KERAS_BACKEND": backend,
        "KERAS_HOME": session.create_tmp(),
        "MPLBACKEND": "agg",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    if cpu:
        return variables | {
            "CUDA_VISIBLE_DEVICES": "-1",
            "JAX_PLATFORMS": "cpu",
            "KERAS_TORCH_DEVICE": "cpu",
        }
    # The references are float64: products of float32 numbers have to be in float32.
    return variables | {"JAX_DEFAULT_MATMUL_PRECISION": "highest", "NVIDIA_TF32_OVERRIDE": "0"}


def chosen_backends(session):
    """The backends named in the arguments, or all; and the other arguments."""
    chosen = [a for a in session.posargs if a in BACKENDS]
    return chosen or list(BACKENDS), [a for a in session.posargs if a not in chosen]


def assert_only(session, backend):
    """Stops the session if the environment holds a backend besides `backend`."""
    others = [name for name in BACKENDS if name != backend]
    session.run(
        "python",
        "-c",
        "import importlib.util, sys\n"
        f"found = [name for name in {others} if importlib.util.find_spec(name)]\n"
        f"sys.exit(f'Only {backend} should be here, and there is {{found}}.' if found else 0)",
        silent=True,
    )


def run_pytest(session, backend):
    """Runs the tests, or those that the arguments after `--` select."""
    # A selection such as `-k mirrored` may leave nothing on one backend (pytest's exit code 5).
    session.run(
        "pytest",
        *WORKERS,
        *SLOWEST,
        *session.posargs,
        env=environment(session, backend) | ONE_THREAD_A_WORKER,
        success_codes=[0, 5] if session.posargs else [0],
    )


def oldest_keras():
    """The lower bound of Keras in pyproject.toml."""
    dependencies = nox.project.load_toml(ROOT / "pyproject.toml")["project"]["dependencies"]
    keras = next(d for d in dependencies if re.match(r"keras\b", d))
    return re.search(r">=\s*([\d.]+)", keras)[1]


def with_keras(session, version):
    """A copy of the constraints with another version of Keras."""
    text, count = re.subn(r"(?m)^keras==.*$", f"keras=={version}", CONSTRAINTS.read_text())
    if count != 1:
        session.error(f"{CONSTRAINTS.name} should pin Keras once, and does so {count} times.")
    path = Path(session.create_tmp()) / "constraints.txt"
    path.write_text(text)
    return path
