#!/usr/bin/env python3
"""CPU per request of Tidegate beside nginx and HAProxy, on one machine, in one run.

Every proxy stands between wrk (or h2load) and the same nginx origin, and is measured in turn, several
rounds interleaved, because these machines' speed drifts. What counts is the proxy's own CPU time (user
and system, from /proc) divided by the requests it answered; throughput is shown beside it.

    make bench            # builds what is missing, then runs this
    benches/side_by_side.py --binary target/release/tidegate --rounds 3 --seconds 5
"""

import argparse
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

TICK = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(port, process):
    for _ in range(200):
        if process.poll() is not None:
            sys.exit(f"{process.args[0]} ended with {process.returncode} before it listened")
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"{process.args[0]} does not listen on {port}")


def cpu_seconds(pid):
    """User and system seconds of a process and its children that still run."""
    user = system = 0
    todo = [pid]
    while todo:
        one = todo.pop()
        try:
            with open(f"/proc/{one}/stat") as f:
                fields = f.read().rpartition(")")[2].split()
            for task in os.listdir(f"/proc/{one}/task"):
                with open(f"/proc/{one}/task/{task}/children") as f:
                    todo += [int(c) for c in f.read().split()]
        except FileNotFoundError:
            continue
        user += int(fields[11])
        system += int(fields[12])
    return user / TICK, system / TICK


class Bench:
    def __init__(self, args, folder):
        self.args, self.folder, self.running = args, folder, []
        self.origin = free_port()
        self.start(self.nginx("origin", self.origin, "return 200 'hello, visitor\\n';"), self.origin)
        self.make_certificate()

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text):
        with open(self.path(name), "w") as f:
            f.write(text)
        return self.path(name)

    def make_certificate(self):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-keyout", self.path("key.pem"), "-out", self.path("cert.pem"), "-days", "2", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=DNS:localhost"],
            check=True, capture_output=True)
        with open(self.path("both.pem"), "w") as out:
            for name in ("cert.pem", "key.pem"):
                with open(self.path(name)) as f:
                    out.write(f.read())

    def start(self, command, port):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.running.append(process)
        wait_for(port, process)
        return process

    def stop(self):
        for process in self.running:
            process.send_signal(signal.SIGTERM)
        for process in self.running:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()

    def nginx(self, name, port, location, tls_port=None, extra=""):
        tls = ""
        if tls_port:
            tls = f"listen 127.0.0.1:{tls_port} ssl http2; ssl_certificate {self.path('cert.pem')}; ssl_certificate_key {self.path('key.pem')};"
        conf = self.write(f"{name}.conf", f"""
daemon off; worker_processes {self.args.cores}; pid {self.path(name)}.pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 300s;
  client_body_temp_path {self.folder}; proxy_temp_path {self.folder}; fastcgi_temp_path {self.folder};
  uwsgi_temp_path {self.folder}; scgi_temp_path {self.folder};
  {extra}
  server {{ listen 127.0.0.1:{port} reuseport; {tls} location / {{ {location} }} }}
}}
""")
        return ["nginx", "-c", conf, "-p", self.folder]

    def start_nginx(self):
        port, tls = free_port(), free_port()
        upstream = f"upstream origin {{ server 127.0.0.1:{self.origin}; keepalive 256; keepalive_requests 1000000000; }}"
        location = "proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection ''; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"
        return self.start(self.nginx("nginx", port, location, tls, upstream), port), port, tls

    def start_haproxy(self):
        port, tls = free_port(), free_port()
        conf = self.write("haproxy.cfg", f"""
global
  nbthread {self.args.cores}
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  option forwardfor
  http-reuse always
frontend f
  bind 127.0.0.1:{port}
  bind 127.0.0.1:{tls} ssl crt {self.path('both.pem')} alpn h2,http/1.1
  default_backend b
backend b
  server s 127.0.0.1:{self.origin}
""")
        return self.start(["haproxy", "-f", conf, "-db"], port), port, tls

    def start_tidegate(self):
        port, tls, admin = free_port(), free_port(), free_port()
        conf = self.write("edge.yaml", f"""
version: 1
admin: {{bind: "127.0.0.1:{admin}"}}
listeners:
  plain: {{bind: "127.0.0.1:{port}"}}
  tls:
    bind: "127.0.0.1:{tls}"
    certificates: [{{cert: cert.pem, key: key.pem}}]
services:
  origin: {{endpoints: ["127.0.0.1:{self.origin}"]}}
routes:
  - {{name: all, match: {{path: /**}}, to: origin}}
""")
        command = [self.args.binary, "gateway", "--config", conf, "--state", self.path("state")]
        os.environ["TIDEGATE_WORKERS"] = str(self.args.cores)
        return self.start(command, port), port, tls

    def load(self, kind, port, tls):
        seconds = str(self.args.seconds)
        if kind == "h1":
            command = ["wrk", "-t1", "-c32", f"-d{seconds}s", f"http://127.0.0.1:{port}/"]
        elif kind == "h1 tls":
            command = ["wrk", "-t1", "-c32", f"-d{seconds}s", f"https://127.0.0.1:{tls}/"]
        else:
            command = ["h2load", "-t1", "-c8", "-m16", f"--duration={seconds}", f"https://127.0.0.1:{tls}/"]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        if kind == "h2 tls":
            done = int(re.search(r"(\d+) succeeded", out).group(1))
            bad = int(re.search(r"(\d+) failed", out).group(1))
        else:
            done = int(re.search(r"(\d+) requests in", out).group(1))
            bad = int(m.group(1)) if (m := re.search(r"Non-2xx or 3xx responses: (\d+)", out)) else 0
        if bad:
            sys.exit(f"{bad} of {done} requests failed: the figures would mean nothing\n{out}")
        return done

    def measure(self, process, kind, port, tls):
        before, began = cpu_seconds(process.pid), time.monotonic()
        done = self.load(kind, port, tls)
        took, after = time.monotonic() - began, cpu_seconds(process.pid)
        return [1e6 * (after[0] - before[0]) / done, 1e6 * (after[1] - before[1]) / done, done / took]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default="target/release/tidegate")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=1, help="worker threads of each proxy")
    parser.add_argument("--kinds", default="h1,h1 tls,h2 tls")
    args = parser.parse_args()
    missing = [tool for tool in ("nginx", "haproxy", "wrk", "h2load", "openssl") if not shutil.which(tool)]
    if missing:
        sys.exit(f"missing: {', '.join(missing)}; `make bench` installs them")

    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, folder)
        try:
            proxies = {"nginx": bench.start_nginx(), "haproxy": bench.start_haproxy(), "tidegate": bench.start_tidegate()}
            print(f"{'':10} {'proxy':10} {'user µs':>8} {'sys µs':>8} {'CPU µs':>8} {'req/s':>8}   medians of {args.rounds} rounds")
            for kind in args.kinds.split(","):
                figures = {name: [] for name in proxies}
                for _ in range(args.rounds):
                    for name, proxy in proxies.items():
                        figures[name].append(bench.measure(proxy[0], kind, proxy[1], proxy[2]))
                for name, rows in figures.items():
                    user, system, rate = (statistics.median(column) for column in zip(*rows))
                    print(f"{kind:10} {name:10} {user:8.1f} {system:8.1f} {user + system:8.1f} {rate:8.0f}", flush=True)
        finally:
            bench.stop()


if __name__ == "__main__":
    main()
