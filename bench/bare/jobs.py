"""The limit for isolated jobs: a process each from multiprocessing's own forkserver, with nothing but a pipe for the result.

usage: jobs.py many|chain COUNT. many: two at a time. chain: each takes the last one's result.
"""

import json
import multiprocessing
import sys
import time
from multiprocessing.connection import wait

CONTEXT = multiprocessing.get_context("forkserver")


def job(x):
    return x + 1


def child(pipe, x):
    pipe.send(job(x))
    pipe.close()


def start(x):
    here, there = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=child, args=(there, x))
    process.start()
    there.close()
    return here, process


def end(pair):
    pipe, process = pair
    got = pipe.recv()
    process.join()
    pipe.close()
    return got


def main():
    how, count = sys.argv[1], int(sys.argv[2])
    CONTEXT.set_forkserver_preload(["numpy", "pyarrow", "pyarrow.compute", "pyarrow.parquet", "duckdb"])
    first = time.perf_counter()
    end(start(0))
    began = time.perf_counter()
    if how == "many":
        live, total = [], 0
        for x in range(count):
            live.append(start(x))
            if len(live) == 2:
                ready = set(wait([pipe for pipe, _ in live]))
                for pair in [p for p in live if p[0] in ready]:
                    total += end(pair)
                    live.remove(pair)
        total += sum(end(pair) for pair in live)
        assert total == count * (count + 1) // 2
    else:
        x = 0
        for _ in range(count):
            x = end(start(x))
        assert x == count
    took = time.perf_counter() - began
    print(json.dumps({"work": took, "ms_each": round(took / count * 1000, 2), "first_s": round(began - first, 2)}))


if __name__ == "__main__":
    main()
