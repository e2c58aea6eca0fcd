"""Says which accelerator the backend in KERAS_BACKEND sees here; `nox -s gpu` asks before it runs.

The last line printed is `accelerator: ...`, or why there is none.
"""

import importlib
import os
import sys


def jax():
    return [str(d) for d in importlib.import_module("jax").devices() if d.platform != "cpu"]


def tensorflow():
    devices = importlib.import_module("tensorflow").config.list_physical_devices()
    return [d.name for d in devices if d.device_type != "CPU"]


def torch():
    module = importlib.import_module("torch")
    if module.cuda.is_available():
        return [module.cuda.get_device_name(i) for i in range(module.cuda.device_count())]
    return ["mps"] if module.backends.mps.is_available() else []


def main():
    backend = os.environ["KERAS_BACKEND"]
    for name in (backend, "keras", "pytest"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            return f"{sys.executable} cannot import {name}: {error}"
    devices = {"jax": jax, "tensorflow": tensorflow, "torch": torch}[backend]()
    return f"accelerator: {', '.join(devices)}" if devices else f"{backend} sees a CPU and no more"


if __name__ == "__main__":
    print(main())  # noqa: T201
