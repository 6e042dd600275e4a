#!/usr/bin/env python3
"""More connections than files may be open: the load generator raises the limit, or says so before the run.

    file_limit_test.py ECHO_LOAD SERVER"""

import ctypes
import resource
import subprocess
import sys

FILES = 32
PR_CAPBSET_DROP, CAP_SYS_RESOURCE = 24, 24
PATIENCE = 30


def may_be_raised():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))


def may_not_be_raised():
    # Who has the privilege gives it up; who has not is refused here, and cannot raise it anyway.
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_SYS_RESOURCE, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))


def load(echo_load, port, connections, limit):
    # Short where the machine is free, and long enough where it is not.
    for seconds in (0.2, 5):
        result = subprocess.run([echo_load, "--port", str(port), "--connections", str(connections),
                                 "--seconds", str(seconds), "--warmup", "0"],
                                preexec_fn=limit, capture_output=True, text=True, timeout=PATIENCE)
        if "no request was answered" not in result.stderr:
            break
    return result


def main():
    echo_load, server = sys.argv[1:]
    # No server: it must not come so far.
    refused = load(echo_load, 1, 1000, may_not_be_raised)
    said = f"1000 connections need 1016 open files, the limit is {FILES} and may not be raised"
    if refused.returncode == 0 or said not in refused.stderr:
        sys.exit(f"refused: it ended with {refused.returncode} and said: {refused.stderr}")

    with subprocess.Popen([server, "--port", "0"], stdout=subprocess.PIPE, text=True) as serving:
        try:
            port = int(serving.stdout.readline().split()[1])
            raised = load(echo_load, port, 100, may_be_raised)
        finally:
            serving.kill()
    if raised.returncode != 0:
        sys.exit(f"raised: it ended with {raised.returncode} and said: {raised.stderr}")


if __name__ == "__main__":
    main()
