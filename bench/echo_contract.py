#!/usr/bin/env python3
"""What every echo server of the benchmark must do before its speed means anything.

    echo_contract.py ECHO_LOAD SERVER [OPTION...]

Starts the server, holds each sentence below against it, and fails on the first that is untrue.
"""

import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

PATIENCE = 30  # seconds after which something that should happen is said not to happen


class Untrue(Exception):
    pass


def must(condition, otherwise):
    if not condition:
        raise Untrue(otherwise)


class Server:
    def __init__(self, command):
        self.process = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE,
                                        text=True)
        words = self.process.stdout.readline().split()
        must(len(words) == 2 and words[0] == "listening", f"it said {words} and no port")
        self.command = command
        self.port = int(words[1])

    def connect(self):
        peer = socket.socket()
        peer.settimeout(PATIENCE)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.connect(("127.0.0.1", self.port))
        return peer

    def open_files(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


def receive_all(peer):
    pieces = []
    while piece := peer.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def reset(peer):
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def load(echo_load, server, connections, size, client="auto"):
    # Short where the machine is free, and long enough where it is not.
    for seconds in (0.2, 5):
        result = subprocess.run(
            [echo_load, "--port", str(server.port), "--connections", str(connections),
             "--size", str(size), "--seconds", str(seconds), "--warmup", "0",
             "--client", client],
            capture_output=True, text=True, timeout=PATIENCE)
        if "no request was answered" not in result.stderr:
            break
    must(result.returncode == 0, f"{connections} connections of {size} bytes: {result.stderr}")


def messages_of_any_size_come_back_whole(echo_load, server):
    for size in (1, 64, 4096, 4097, 100_000, 1_000_000):
        load(echo_load, server, 4, size)
    load(echo_load, server, 4, 1_000_000, "epoll")


def a_thousand_connections_are_served_at_once(echo_load, server):
    load(echo_load, server, 1000, 64)
    load(echo_load, server, 1000, 4096)
    load(echo_load, server, 1000, 64, "epoll")


def bytes_sent_before_the_end_of_the_stream_come_back_before_it(_, server):
    # More than the kernel's buffers hold, so that the server's sends stop half-way. The receive
    # buffer is the kernel's choice: small at first, it grows with what is read. With SO_RCVBUF
    # Linux 6.18 drops segments on loopback now and then (TcpExtBeyondWindow), each until a
    # retransmission timer that backs off: probably why this once took longer than a test may.
    data = os.urandom(30_000_000)
    peer = server.connect()

    failures = []

    def send():
        try:
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
        except OSError as error:
            failures.append(error)

    sender = threading.Thread(target=send)
    sender.start()
    time.sleep(0.3)  # until every buffer on the way is full
    echo = receive_all(peer)
    sender.join()
    peer.close()
    must(not failures, f"sending: {failures}")
    must(echo == data, f"{len(data)} bytes went out, {len(echo)} came back, or other ones")


def an_end_right_behind_the_last_bytes_is_answered(_, server):
    for _ in range(100):
        peer = server.connect()
        peer.sendall(b"the end")
        peer.shutdown(socket.SHUT_WR)
        must(receive_all(peer) == b"the end", "the last bytes were lost")
        peer.close()


def resets_hurt_nobody_else(_, server):
    bystander = server.connect()
    for number in range(200):
        peer = server.connect()
        peer.sendall(b"x" * (1 + number * 1000))
        reset(peer)
        bystander.sendall(b"still here")
        must(bystander.recv(10, socket.MSG_WAITALL) == b"still here", "the bystander was lost")
    bystander.close()


def closed_connections_leave_no_file_behind(echo_load, server):
    load(echo_load, server, 10, 64)
    deadline = time.monotonic() + PATIENCE
    # What a server opens once for all (a reactor, a ring) may have come since the start.
    while server.open_files() > 20:
        must(time.monotonic() < deadline, f"{server.open_files()} files are open")
        time.sleep(0.05)


def a_port_in_use_is_refused_with_a_word(_, server):
    second = subprocess.run([*server.command, "--port", str(server.port)], capture_output=True,
                            text=True, timeout=PATIENCE)
    must(second.returncode > 0 and second.stderr.strip(),
         f"exit code {second.returncode}, error output '{second.stderr}'")


def the_termination_signal_ends_it_with_success(_, server):
    peer = server.connect()
    server.process.send_signal(signal.SIGTERM)
    must(server.process.wait(PATIENCE) == 0, f"exit code {server.process.returncode}")
    peer.close()


SENTENCES = [
    messages_of_any_size_come_back_whole,
    a_thousand_connections_are_served_at_once,
    bytes_sent_before_the_end_of_the_stream_come_back_before_it,
    an_end_right_behind_the_last_bytes_is_answered,
    resets_hurt_nobody_else,
    closed_connections_leave_no_file_behind,
    a_port_in_use_is_refused_with_a_word,
    the_termination_signal_ends_it_with_success,
]


def main():
    echo_load, *command = sys.argv[1:]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    server = Server(command)
    try:
        for sentence in SENTENCES:
            name = sentence.__name__.replace("_", " ")
            try:
                sentence(echo_load, server)
            except (Untrue, OSError, subprocess.TimeoutExpired) as error:
                sys.exit(f"untrue: {name}: {error}")
            print(f"true: {name}", flush=True)
    finally:
        server.process.kill()
        server.process.wait()


if __name__ == "__main__":
    main()
