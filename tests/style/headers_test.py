#!/usr/bin/env python3
"""Every header that is installed compiles by itself, without a warning: headers_test.py BUILD WHICH COMPILER...

BUILD is the build directory, which has the headers that are made when coir is configured. WHICH is --all, or
--but-first-in-lib: without those that stand first in a file of the library, which has been built file by file."""
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
STRICT = ["-std=c++20", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Wsign-conversion",
          "-Wold-style-cast", "-Wnon-virtual-dtor", "-Woverloaded-virtual", "-Wundef", "-Werror"]

build = pathlib.Path(sys.argv[1])
which = sys.argv[2]
compiler = sys.argv[3:]
folders = [ROOT / "include", build / "include"]
headers = sorted(str(header.relative_to(folder)) for folder in folders for header in folder.rglob("*.hpp"))
if which == "--but-first-in-lib":
    firsts = (re.search(r"^#include (.*)$", file.read_text(), re.M) for file in ROOT.joinpath("lib").rglob("*.cpp"))
    built = {first[1] for first in firsts if first}
    headers = [header for header in headers if f"<{header}>" not in built]
elif which != "--all":
    sys.exit(__doc__)


def complaint(header):
    # Twice: the second time must do nothing.
    run = subprocess.run([*compiler, *STRICT, *(f"-I{folder}" for folder in folders), "-fsyntax-only",
                          "-x", "c++", "-"], input=f"#include <{header}>\n" * 2, text=True,
                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return f"<{header}> by itself:\n{run.stderr}" if run.returncode != 0 else None


with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as at_once:
    complaints = [text for text in at_once.map(complaint, headers) if text]
print(f"{len(headers)} headers with {' '.join(compiler)}, {len(complaints)} do not compile by themselves")
print("\n".join(complaints))
sys.exit(bool(complaints) or not headers)
