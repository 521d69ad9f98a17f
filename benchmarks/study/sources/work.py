"""Threads, files and hashes: the Python program of the study. `a` trains, `b` does other things."""

import hashlib
import json
import queue
import sys
import threading
from pathlib import Path


def first():
    """Hash files in threads."""
    todo = queue.Queue()
    results = []

    def worker():
        while (path := todo.get()) is not None:
            results.append(hashlib.sha256(path.read_bytes()).hexdigest())

    threads = [threading.Thread(target=worker) for _ in range(3)]
    for thread in threads:
        thread.start()
    for path in sorted(Path().glob("*.txt")):
        todo.put(path)
    for _ in threads:
        todo.put(None)
    for thread in threads:
        thread.join()
    Path("out.json").write_text(json.dumps(sorted(results)))
    print(len(results))


def second():
    """Compress, copy, wait, and fail a little."""
    import concurrent.futures
    import csv
    import gzip
    import logging
    import os
    import random
    import shutil
    import tempfile
    import time
    import zipfile

    logging.basicConfig(filename="log.txt", level=logging.INFO)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        sums = list(pool.map(lambda n: sum(i * i for i in range(n * 1000)), range(40)))
    logging.info("sums %s", sums)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree("deep", f"{folder}/copy")
        with gzip.open(f"{folder}/n.gz", "wt") as packed:
            packed.write(Path("numbers.txt").read_text())
        with zipfile.ZipFile("all.zip", "w") as archive:
            for root, _, names in os.walk(folder):
                for name in names:
                    archive.write(os.path.join(root, name))
        with open("rows.csv", "w", newline="") as out:
            csv.writer(out).writerows([i, random.random()] for i in range(500))
        os.replace("rows.csv", "final.csv")
        os.utime("final.csv")
    lock = threading.Condition()
    timer = threading.Timer(0.02, lambda: lock.acquire() and (lock.notify_all(), lock.release()))
    with lock:
        timer.start()
        lock.wait(1)
    time.sleep(0.01)
    big = [bytearray(1 << 20) for _ in range(40)]
    del big
    try:
        Path("missing").read_text()
    except OSError as error:
        print(error, file=sys.stderr)
    print(input())


if __name__ == "__main__":
    {"a": first, "b": second}[sys.argv[1]]()
