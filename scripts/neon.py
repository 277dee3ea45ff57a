"""Check in the machine code for 64-bit ARM that the engine's loops use NEON's vectors of four floats.

Usage: python scripts/neon.py LIBRARY, where native/kernels.cpp was compiled into the library. It needs binutils for
aarch64.

Two loops are not checked, because they are scalar on every processor: the projection of C51, which scatters, and the
sum over a sample's fractions in `unmix`, whose order is fixed. Nor is the choice of the next action, a small loop that
Clang does not vectorise.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from typing import NamedTuple

# The names of vector instructions by kind. Compilers choose differently within a kind.
VECTOR = {
    "multiply-add": "fml[as]",
    "multiply": "fn?mul",
    "add": "f(add|sub)",
    "divide": "fdiv",
    "root": "fsqrt",
    "absolute": "fab[sd]",
    "compare": "fcm|fmax|fmin",
    "interleave": "zip|uzp|trn|st[24]",
}
EXPONENTIAL = {"multiply-add": 9}
LOGARITHM = {"multiply-add": 11}
SIGMOID = {"multiply-add": 9, "divide": 1}
TANH = {"multiply-add": 14, "divide": 1}
ADAM = {"multiply-add": 4, "divide": 1, "root": 1}

# The functions of each kernel, and the loops that they must have, each given by the least number of vector instructions
# of some kinds. Compilers differ in which of these functions they inline.
KERNELS: dict[str, tuple[str, list[dict[str, int]]]] = {
    "matrix product": ("tile|strip|multiply_part|multiply", [{"multiply-add": 24}]),
    "matrix times vector": ("multiply_rows|multiply_vector", [{"multiply-add": 8}]),
    "transposition": ("transpose", [{"interleave": 4}]),
    "sums": ("sum_rows|sum_of_squares", [{"add": 1}, {"multiply-add": 4}]),
    "activations": ("activate", [{"compare": 1}, SIGMOID, TANH]),
    "gradients of activations": ("deactivate", [{"compare": 1}, {"multiply-add": 1, "multiply": 1}, SIGMOID]),
    "layer norm": ("normalise", [{"add": 1, "multiply": 1, "multiply-add": 1}, {"add": 2, "multiply-add": 2}]),
    "gradient of layer norm": ("denormalise", [{"multiply": 1}, {"multiply-add": 2}, {"multiply-add": 2}]),
    "dueling": ("duel|separate", [{"divide": 1}, *[{"add": 1}] * 3]),
    "noise": ("add_noise|noise_gradient", [{"multiply-add": 1}, {"multiply": 2}]),
    "implicit quantiles": ("cosines|mix", [{"multiply-add": 8}, {"multiply": 1}]),
    "losses": (
        "action_values|log_softmax|soft_policy|bootstrap|q_learning|categorical|quantile|temporal_difference",
        [LOGARITHM, LOGARITHM, EXPONENTIAL, EXPONENTIAL, EXPONENTIAL, *[{"absolute": 1, "multiply-add": 1}] * 2],
    ),
    "optimisers": ("optimize", [*[ADAM] * 5, {"multiply-add": 2}]),
    "target network": ("move_towards", [{"multiply-add": 1}]),
    "peak": ("multiply_and_add", [{"multiply-add": 20}]),
}


class Instruction(NamedTuple):
    address: int
    name: str
    operands: str


def functions(library: str) -> dict[str, list[Instruction]]:
    command = ["aarch64-linux-gnu-objdump", "--disassemble", "--demangle", "--no-show-raw-insn", library]
    result: dict[str, list[Instruction]] = {}
    body: list[Instruction] = []
    for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines():
        if match := re.fullmatch(r"[0-9a-f]+ <(.*)>:", line):
            body = result.setdefault(match[1], [])
        elif match := re.match(r" *([0-9a-f]+):\t(\S+)\s*(.*)", line):
            body.append(Instruction(int(match[1], 16), match[2], match[3]))
    return result


def innermost_loops(function: list[Instruction]) -> list[list[Instruction]]:
    """The instructions from the target of a jump back to that jump, where no other loop and no return lies between."""
    jumps = set()
    for instruction in function:
        target = re.search(r"\b([0-9a-f]+) <", instruction.operands)
        if re.fullmatch(r"b(\.\w+)?|cbn?z|tbn?z", instruction.name) and target:
            jumps.add((int(target[1], 16), instruction.address))
    loops = [(begin, end) for begin, end in jumps if begin <= end]
    innermost = [
        [instruction for instruction in function if begin <= instruction.address <= end]
        for begin, end in loops
        if not any(begin <= other[0] and other[1] <= end for other in loops if other != (begin, end))
    ]
    return [loop for loop in innermost if all(instruction.name != "ret" for instruction in loop)]


def kind(instruction: Instruction) -> str | None:
    """The kind of a vector instruction, "scalar" for arithmetic on one float, "stack" for a float kept there."""
    name, operands = instruction.name, instruction.operands
    if ".4s" in operands:
        return next((kind for kind, names in VECTOR.items() if re.match(names, name)), None)
    if re.match(r"f(?!cmp|ccmp|csel|mov|cvt)", name) and re.match(r"[sd]\d", operands):
        return "scalar"
    if "[sp" in operands and re.search(r"\b[qds]\d", operands):
        return "stack"
    return None


def missing(loops: list[Counter[str | None]], required: list[dict[str, int]]) -> list[dict[str, int]]:
    """The required loops that are not among these. A loop fulfils one requirement."""
    rest = list(loops)
    result = []
    for wanted in sorted(required, key=lambda wanted: -sum(wanted.values())):
        fitting = [loop for loop in rest if all(loop[kind] >= count for kind, count in wanted.items())]
        if fitting:
            rest.remove(min(fitting, key=lambda loop: loop.total()))
        else:
            result.append(wanted)
    return result


def main(library: str) -> str:
    """Return a line about what was found, or exit with the faults."""
    bodies = functions(library)
    faults = []
    for kernel, (names, required) in KERNELS.items():
        matching = [body for name, body in bodies.items() if re.match(rf".*\bupright::portable::({names})\b", name)]
        loops = [Counter(map(kind, loop)) for body in matching for loop in innermost_loops(body)]
        faults += [f"{kernel}: no loop has {wanted}" for wanted in missing(loops, required)]
        if kernel == "matrix product":
            widest = max(loops, key=lambda loop: loop["multiply-add"])
            faults += [f"{kernel}: a loop has {loop['scalar']} scalars" for loop in loops if loop["scalar"]]
            faults += [f"{kernel}: a loop keeps floats on the stack" for loop in loops if loop["stack"]]
    if faults:
        sys.exit("\n".join([f"{library} does not use NEON where it should:", *faults]))
    found = sum(len(required) for _, required in KERNELS.values())
    return (
        f"{library}: all {found} loops use NEON; in the widest of the matrix product, {widest['multiply-add']} of "
        f"{widest.total()} instructions multiply and add four floats"
    )


if __name__ == "__main__":
    print(main(sys.argv[1]))
