#!/usr/bin/env python3
"""What must not compile does not, and the compiler says what to write instead: reject.py FILE... -- COMPILER...

Each FILE must compile with -DWRONG=0, which shows that the rest of it is right. Where it says

    // WRONG 1: some text

it must not compile with -DWRONG=1, and the diagnostic must have the text in it. "WRONG 1, gcc before 13:"
is refused by that compiler only, and must compile with all others."""
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import tempfile

MARK = re.compile(r"// WRONG (\d+)(, gcc before 13)?: (.+)")
COIR_GCC = "#include <coir/base/config.hpp>\n#if !COIR_GCC_BEFORE_13\n#error other\n#endif\n"

separator = sys.argv.index("--")
files = [pathlib.Path(name) for name in sys.argv[1:separator]]
compiler = sys.argv[separator + 1:]
scratch = tempfile.TemporaryDirectory(prefix="coir-reject-")
# What all of them include is compiled once, which is most of the work.
headers = pathlib.Path(scratch.name) / "headers.hpp"
headers.write_text("#include <coir/coir.hpp>\n")
subprocess.run([*compiler, "-x", "c++-header", headers, "-o", f"{headers}.gch"], check=True)


def compiles(*options, source=None):
    run = subprocess.run([*compiler, "-fsyntax-only", *options], input=source, text=True,
                         stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    return run.returncode == 0, run.stderr


def words(text):
    # Compilers break lines and choose quotation marks as they like.
    return " ".join(text.replace("‘", "'").replace("’", "'").split())


gcc_before_13 = compiles("-x", "c++", "-", source=COIR_GCC)[0]


def complaint(file, number, only_gcc=False, expected=None):
    """What is wrong with the way in which this use compiles, or does not."""
    worked, said = compiles("-include", headers, "-Winvalid-pch", f"-DWRONG={number}", file)
    if expected is None or only_gcc and not gcc_before_13:
        return None if worked else f"{file.name}: WRONG {number} is right, and does not compile:\n{said}"
    if worked:
        return f"{file.name}: WRONG {number} compiles"
    if words(expected) not in words(said):
        return f"{file.name}: WRONG {number} is refused, but nobody says \"{expected}\":\n{said}"
    return None


uses = []
for file in files:
    marks = MARK.findall(file.read_text())
    if not marks:
        sys.exit(f"{file.name} has no wrong use")
    uses += [(file, 0)] + [(file, *mark) for mark in marks]

with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as at_once:
    complaints = [text for text in at_once.map(lambda use: complaint(*use), uses) if text]
print(f"{len(files)} files, {len(uses) - len(files)} wrong uses, {len(complaints)} not as they should be")
print("\n".join(complaints))
sys.exit(bool(complaints))
