#!/usr/bin/env python3
"""Every class of include/coir that is an op stands in op_list.hpp: op_list_check.py INCLUDE OP_LIST

A new op that is not in the list is one whose rules nobody tests."""
import pathlib
import re
import sys

include, op_list = (pathlib.Path(argument) for argument in sys.argv[1:])
listed = set(re.findall(r"\w+", op_list.read_text()))

# Ops are classes with an abort(). These are not ops that a user awaits: parts of such.
PARTS = {"request_op_base", "event_op", "registration_op", "join_base", "stepping_op", "framed_job", "mail_wait",
         "remote_wait"}

ops = {}
for header in sorted(include.rglob("*.hpp")):
    innermost = None
    for line in header.read_text().splitlines():
        found = re.match(r"\s*(?:template <[^>]*>\s*)?class (?:\[\[nodiscard[^]]*\]\] )?(\w+)(?!.*;)", line)
        if found:
            innermost = found[1]
        # What makes it one: its name for the debugger, or its abort().
        is_op = "abort_answer abort()" in line or re.search(r"constexpr const char\* name = (\"|Op::|Take::)", line)
        if is_op and innermost:
            ops.setdefault(innermost, header)

missing = {name: header for name, header in ops.items() if name not in listed | PARTS}
for name, header in missing.items():
    print(f"{header}: {name} is an op and has no case in {op_list}")
print(f"{len(ops)} ops, {len(missing)} of them untested")
sys.exit(bool(missing) or len(ops) < 10)
