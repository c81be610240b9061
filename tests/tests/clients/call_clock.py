"""Calls `clock.Clock/Now` from several threads over one channel until GENERATION or a later one answers,
and prints the answers and failures as JSON.

python3 call_clock.py ADDRESS GENERATION
"""

import collections
import json
import sys
import threading

import grpc

PATIENCE = 120
THREADS = 8


def generation(answer):
    """Decodes field 1 of the answer, a varint."""
    assert answer[0] == 0x08, answer
    value = shift = 0
    for byte in answer[1:]:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value
    raise ValueError(answer)


def main():
    address, last = sys.argv[1], int(sys.argv[2])
    channel = grpc.insecure_channel(address)
    now = channel.unary_unary("/clock.Clock/Now")
    lock = threading.Lock()
    done = threading.Event()
    answers, failures = collections.Counter(), collections.Counter()

    def call():
        while not done.is_set():
            try:
                answered = generation(now(b"", timeout=10))
            except grpc.RpcError as error:
                with lock:
                    failures[f"{error.code().name}: {error.details()}"] += 1
                continue
            with lock:
                answers[answered] += 1
            if answered >= last:
                done.set()

    threads = [threading.Thread(target=call) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    done.wait(PATIENCE)
    done.set()
    for thread in threads:
        thread.join()
    print(json.dumps({"answers": answers, "failures": failures}))


main()
