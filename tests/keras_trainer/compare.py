"""Runs Keras' own trainer tests with the mixin, and every training step ours.

    KERAS_BACKEND=jax python tests/keras_trainer/compare.py [--all-variants] [pytest's own]

What stock Keras passes in this environment has to pass here too, so stock runs the tests that fail,
and no others: where none does, stock cannot pass more. Prints the counts of the runs and every test
in which they differ; exits with 1 if one that stock passes does not pass. `--all-variants` runs all
tests with stock too, and with the mixin where the steps are Keras' own; that those give the numbers
of Keras is shown by `tests/test_model.py`, and what else the mixin changes is in every run.
"""

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
VARIANTS = {
    "stock": "Keras' trainer",
    "mixin": "the mixin over it",
    "step": "the same, multi_gradient_step overridden",
}
OWN_TEST = "test_the_override_takes_the_steps_and_nothing_else_does"  # keras_trainer_test.py

# Tests that stock passes and a variant cannot, for a good reason: {variant: {test: reason}}.
EXCUSED: dict[str, dict[str, str]] = {"mixin": {}, "step": {}}


def main(arguments):
    all_variants = "--all-variants" in arguments
    arguments = [a for a in arguments if a != "--all-variants"]
    outcomes = {v: run(v, arguments) for v in (VARIANTS if all_variants else ["step"])}
    if not all_variants and failed(outcomes["step"]):
        outcomes["stock"] = run("stock", arguments, failed(outcomes["step"]))
    print_counts(outcomes)
    worse = [line for v in EXCUSED if v in outcomes for line in differences(v, outcomes)]
    if not all(passed(outcome) for v, outcome in outcomes.items() if v in EXCUSED):
        worse.append("A run passed no test at all: nothing was compared.")
    print(*(worse or ["All that stock Keras passes here passes with the mixin."]), sep="\n")
    return 1 if worse else 0


def run(variant, arguments, names=()):
    """Runs the tests, or those named, under a variant; gives `{test: (outcome, text)}`."""
    print(f"== {variant}: {VARIANTS[variant]}", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider"]
    file = str(HERE / "keras_trainer_test.py")
    tests = [f"{file}::TestTrainer::{name}" for name in sorted(names)] or [file]
    command += ["-c", str(HERE / "pytest.ini"), *tests, *arguments]
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        done = subprocess.run(
            [*command, f"--junitxml={report}"],
            env={**os.environ, "TRAINER": variant},
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        outcome = dict(read(report)) if report.exists() else {}
    own = outcome.pop(OWN_TEST, ("passed", ""))
    # Stock fails where a package is missing: only what the others add is of interest.
    if done.returncode not in (0, 1) or own[0] != "passed":
        sys.exit(f"{done.stdout}\npytest ended with {done.returncode}.")
    print(*done.stdout.splitlines()[-1:], flush=True)
    return outcome


def read(report):
    for case in ET.parse(report).iter("testcase"):
        result = next((child for child in case if child.tag != "properties"), None)
        if result is None or result.tag not in ("failure", "error", "skipped"):
            yield case.get("name"), ("passed", "")
        else:
            yield case.get("name"), (result.tag, result.text or "")


def passed(outcome):
    return {name for name, (result, _) in outcome.items() if result == "passed"}


def failed(outcome):
    return {name for name, (result, _) in outcome.items() if result in ("failure", "error")}


def print_counts(outcomes):
    print(f"\nKeras {version('keras')}, {os.environ['KERAS_BACKEND']}: trainer_test.py")
    for variant, outcome in outcomes.items():
        counts = Counter(result for result, _ in outcome.values())
        print(
            f"{variant:6} {counts['passed']:4} passed, {len(failed(outcome))} failed, "
            f"{counts['skipped']} skipped ({VARIANTS[variant]})"
        )


def differences(variant, outcomes):
    """Yields a line for each test that stock passes and the variant does not."""
    excused = EXCUSED[variant]
    stock = passed(outcomes["stock"]) if "stock" in outcomes else set()
    for name in sorted(stock - passed(outcomes[variant])):
        if name in excused:
            print(f"{variant}: {name} is excused: {excused[name]}")
        else:
            result, text = outcomes[variant].get(name, ("missing", ""))
            yield f"{variant}: {name} passes without it, and here: {result}\n{text}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
