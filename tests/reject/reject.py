#!/usr/bin/env python3
"""What must not compile does not, and the compiler says what to write instead: reject.py FILE COMPILER...

FILE must compile with -DWRONG=0, which shows that the rest of it is right. Where it says

    // WRONG 1: some text

it must not compile with -DWRONG=1, and the diagnostic must have the text in it. "WRONG 1, gcc before 13:"
is refused by that compiler only, and must compile with all others."""
import pathlib
import re
import subprocess
import sys
import tempfile

file = pathlib.Path(sys.argv[1])
compiler = sys.argv[2:]

MARK = re.compile(r"// WRONG (\d+)(, gcc before 13)?: (.+)")
COIR_GCC = "#include <coir/base/config.hpp>\n#if !COIR_GCC_BEFORE_13\n#error other\n#endif\n"


def compiles(*options, source=None):
    what = [file] if source is None else ["-x", "c++", "-"]
    run = subprocess.run([*compiler, *options, "-fsyntax-only", *what], input=source, text=True,
                         stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    return run.returncode == 0, run.stderr


def words(text):
    # Compilers break lines and choose quotation marks as they like.
    return " ".join(text.replace("‘", "'").replace("’", "'").split())


gcc_before_13 = compiles(source=COIR_GCC)[0]
marks = MARK.findall(file.read_text())
failures = []
worked, said = compiles("-DWRONG=0")
if not worked:
    sys.exit(f"{file.name} must compile with -DWRONG=0, and does not:\n{said}")

# What all of them include is compiled once, which is most of the work.
scratch = tempfile.TemporaryDirectory(prefix="coir-reject-")
headers = pathlib.Path(scratch.name) / "headers.hpp"
headers.write_text("".join(re.findall(r"^#include <.+>\n", file.read_text(), re.MULTILINE)))
subprocess.run([*compiler, "-x", "c++-header", headers, "-o", f"{headers}.gch"], check=True)
compiler += ["-include", str(headers), "-Winvalid-pch"]

for number, only_gcc, expected in marks:
    worked, said = compiles(f"-DWRONG={number}")
    if only_gcc and not gcc_before_13:
        if not worked:
            failures.append(f"WRONG {number} is right with this compiler, and does not compile:\n{said}")
    elif worked:
        failures.append(f"WRONG {number} compiles")
    elif words(expected) not in words(said):
        failures.append(f"WRONG {number} is refused, but nobody says \"{expected}\":\n{said}")

print(f"{file.name}: {len(marks)} wrong uses, {len(failures)} not refused as they should be")
print("\n".join(failures))
sys.exit(bool(failures) or not marks)
