"""A cable between two network namespaces that delays, reorders and loses what goes through it. Needs Linux and root.

    python tests/bad_link.py DEVICE-A DEVICE-B DELAY JITTER LOSS SEED      # seconds, seconds, a probability

Makes two tap devices, says "ready" and copies frames from each to the other until its standard input ends; then it
tells, in JSON, how many frames went through, were lost, and overtook another. For kernels without netem.
"""

import fcntl
import heapq
import json
import os
import random
import select
import struct
import sys
import time

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
"""Of linux/if_tun.h."""

FRAME = 65536
"""Bytes of one at most."""


def tap(name: str) -> int:
    """A new device of that name; what is sent through it can be read here, and the other way round."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return device


def copy(ends: list[int], delay: float, jitter: float, loss: float, rng: random.Random) -> dict[str, int]:
    """Frames from each end to the other, each `delay` seconds later, `jitter` more or less."""
    waiting: list[tuple[float, int, int, bytes]] = []
    number, latest, told_to_end = 0, dict.fromkeys(ends, -1), sys.stdin.fileno()
    told = {"frames": 0, "lost": 0, "overtaken": 0}
    while True:
        patience = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        ready, _, _ = select.select([*ends, told_to_end], [], [], patience)
        if told_to_end in ready:
            return told
        for end in ready:
            frame, other = os.read(end, FRAME), ends[1 - ends.index(end)]
            number += 1
            if rng.random() < loss:
                told["lost"] += 1
            else:
                due = time.monotonic() + delay + rng.uniform(-jitter, jitter)
                heapq.heappush(waiting, (due, number, other, frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, when, end, frame = heapq.heappop(waiting)
            told["frames"] += 1
            told["overtaken"] += when < latest[end]
            latest[end] = max(latest[end], when)
            try:
                os.write(end, frame)
            except OSError:  # the device is down, or its queue is full: lost, too
                told["lost"] += 1


def main(first: str, second: str, delay: str, jitter: str, loss: str, seed: str) -> None:
    ends = [tap(first), tap(second)]
    print("ready", flush=True)
    print(json.dumps(copy(ends, float(delay), float(jitter), float(loss), random.Random(int(seed)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
