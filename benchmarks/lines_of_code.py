"""How many lines the steps of the examples have, and the same steps written for each backend.

Every example of which `benchmarks/by_hand/` has the step for all three backends is counted:
`NAME_jax.py`, `NAME_tensorflow.py` and `NAME_torch.py` beside `examples/NAME.py`. What counts as a
line is in `harness/step_lines.py`. The numbers are also in the docs; the tests compare them.

    python benchmarks/lines_of_code.py
    python benchmarks/lines_of_code.py --output docs/gallery.md

`--output` replaces the table in that file, between its two comments. No backend is needed.
"""

import argparse
import re
from pathlib import Path

from harness.step_lines import step_lines

ROOT = Path(__file__).parents[1]
BACKENDS = {"jax": "JAX", "tensorflow": "TensorFlow", "torch": "PyTorch"}
BEGIN, END = "<!-- begin of the table of lines -->", "<!-- end of the table of lines -->"


def counted():
    """The lines of the example's step and of those by hand, by the example's name."""
    found = {}
    for path in sorted((ROOT / "examples").glob("*.py")):
        by_hand = [ROOT / "benchmarks" / "by_hand" / f"{path.stem}_{b}.py" for b in BACKENDS]
        if all(file.is_file() for file in by_hand):
            found[path.stem] = [lines_in(file) for file in (path, *by_hand)]
    return found


def lines_in(path):
    lines = step_lines(path.read_text(encoding="utf-8"))
    if lines is None:
        raise SystemExit(f"{path} has no class with a step: no method that `STEPS` names")
    return lines


def table():
    """The table in Markdown."""
    head = ["step of", "keras_cool, all three", *BACKENDS.values(), "the three by hand"]
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    for name, (ours, *by_hand) in counted().items():
        cells = [f"`{name}.py`", ours, *by_hand, sum(by_hand)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", metavar="FILE.md", type=Path, help="default: print the table")
    parser.add_argument("--quick", action="store_true", help="changes nothing: it is quick")
    arguments = parser.parse_args()
    print(table())
    if arguments.output:
        text = arguments.output.read_text(encoding="utf-8")
        pattern = re.compile(f"{BEGIN}.*{END}", re.DOTALL)
        if not pattern.search(text):
            parser.error(f"{arguments.output} has no comments {BEGIN} and {END}; put them there")
        new = pattern.sub(lambda _: f"{BEGIN}\n\n{table()}\n\n{END}", text)
        arguments.output.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
