"""Several processes on one CPU: what is said to each of them is what a launcher says."""

import os
import socket
import subprocess


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return int(some.getsockname()[1])


def told_to_process(rank: int, count: int, port: int) -> dict[str, str]:
    """Return the environment that makes a process one of several, which meet at a port."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }


def start_processes(words: list[str], count: int) -> list[subprocess.Popen[bytes]]:
    """Start a command in some processes; what each says comes through its `stdout`."""
    port = free_port()
    return [
        subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **told_to_process(rank, count, port)},
        )
        for rank in range(count)
    ]
