#!/usr/bin/env python3
"""Requests per generator CPU-second of `tidegate load` beside wrk, oha and h2load, on one machine, in one run.

Every generator sends from core 0 to the same nginx on core 1, closed model, and is measured in turn, several rounds
interleaved, because machines' speed drifts. What counts are answers divided by the generator's own CPU time, user and
system, as the kernel accounts for it when the process ends. oha is left out where it isn't installed.

    make bench            # builds what is missing, then runs this
    benches/load_side_by_side.py --binary target/release/tidegate --rounds 3 --seconds 5
"""

import argparse
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

CONFIG = """
worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_cpu_affinity 10;
events {{ worker_connections 10000; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 1h;
  server {{ listen 127.0.0.1:{h1} backlog=4096; location / {{ return 200 "ok"; }} }}
  server {{ listen 127.0.0.1:{h2} http2 backlog=4096; location / {{ return 200 "ok"; }} }}
}}
"""

# What must hold: ours by theirs, at least.
WANTED = {("h1", "wrk"): 0.9, ("h1", "oha"): 1.5, ("h2", "h2load"): 0.5}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def measured(command):
    """What a command printed, and the CPU seconds that it used."""
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(["taskset", "-c", "0", *command], stdout=out, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read().decode(errors="replace")
    # 4: our own generator says that it was the bottleneck, which is the point of this.
    if process.returncode not in (0, 4):
        sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{text}")
    return text, usage.ru_utime + usage.ru_stime


def count(pattern):
    return lambda text: int(re.search(pattern, text).group(1))


def ours(text):
    return json.loads(text[text.index("\n{") :])["all"]["good"]


def generators(binary, seconds, h1, h2):
    """For each protocol: name, command, and how to read the number of good answers from what it prints."""
    duration = f"{seconds}s"
    plain, framed = f"http://127.0.0.1:{h1}/", f"http://127.0.0.1:{h2}/"
    found = [
        ("h1", "tidegate", [binary, "load", plain, "-c", "50", "-d", duration, "--json"], ours),
        ("h1", "wrk", ["wrk", "-t1", "-c50", f"-d{duration}", plain], count(r"(\d+) requests in")),
        ("h2", "tidegate", [binary, "load", framed, "-c", "50", "-d", duration, "--http2", "--json"], ours),
        (
            "h2",
            "h2load",
            ["h2load", "-t1", "-c1", "-m50", "-D", str(seconds), framed],
            count(r"(\d+) succeeded"),
        ),
    ]
    if shutil.which("oha"):
        command = ["oha", "--no-tui", "-c", "50", "-z", duration, "--output-format", "json", plain]
        found.insert(2, ("h1", "oha", command, count(r'"200":\s*(\d+)')))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/tidegate")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    args = parser.parse_args()
    if (os.cpu_count() or 1) < 2:
        sys.exit("needs two cores: one for the generator, one for the target")
    with tempfile.TemporaryDirectory() as folder:
        h1, h2 = free_port(), free_port()
        path = os.path.join(folder, "nginx.conf")
        with open(path, "w") as f:
            f.write(CONFIG.format(folder=folder, h1=h1, h2=h2))
        nginx = subprocess.Popen(["nginx", "-c", path], stderr=subprocess.DEVNULL)
        try:
            for _ in range(200):
                with socket.socket() as s:
                    if s.connect_ex(("127.0.0.1", h1)) == 0:
                        break
                time.sleep(0.05)
            results = {}
            for _ in range(args.rounds):
                for protocol, name, command, read in generators(args.binary, args.seconds, h1, h2):
                    text, cpu = measured(command)
                    answers = read(text)
                    results.setdefault((protocol, name), []).append((answers / cpu, answers / args.seconds))
        finally:
            nginx.terminate()
            nginx.wait()
    print(f"{'':<14}{'per CPU-second':>16}{'per second':>14}{'ours by it':>12}{'wanted':>8}")
    missed = False
    for (protocol, name), runs in results.items():
        per_cpu = statistics.median(run[0] for run in runs)
        mine = statistics.median(run[0] for run in results[(protocol, "tidegate")])
        wanted = WANTED.get((protocol, name))
        missed |= wanted is not None and mine / per_cpu < wanted
        against = "" if wanted is None else f"{mine / per_cpu:>12.2f}{wanted:>8.1f}"
        per_second = statistics.median(run[1] for run in runs)
        print(f"{protocol + ' ' + name:<14}{per_cpu:>16,.0f}{per_second:>14,.0f}{against}")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
