"""What is measured, as the scripts beside this file start it: Tidegate alone, Tidegate in tiers on Redis, HAProxy in front of
Mosquitto; each with what it does without any tuning, its processes on cores of their own; and the generator on another.
"""

import atexit
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 20


class Processes:
    """What was started, by name, on one core; ends all of it in the reverse order."""

    def __init__(self, directory, cores):
        self.directory = directory
        self.cores = cores
        self.started = {}
        atexit.register(self.end)

    def start(self, name, command):
        pinned = ["taskset", "-c", self.cores, *command] if self.cores else command
        with open(self.directory / f"{name}.log", "wb") as log:
            self.started[name] = subprocess.Popen(pinned, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.directory)

    def wait_until(self, name, ready):
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self.started[name].poll() is None:
            with contextlib.suppress(OSError):
                if ready():
                    return
            time.sleep(0.05)
        log = (self.directory / f"{name}.log").read_text(errors="replace")
        raise SystemExit(f"{name} did not get ready:\n{log[-3000:]}")

    def pids(self, prefix=""):
        """Of those whose name begins so."""
        return [process.pid for name, process in self.started.items() if name.startswith(prefix)]

    def dead(self):
        return [name for name, process in self.started.items() if process.poll() is not None]

    def end(self):
        for process in reversed(self.started.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self.started = {}


@dataclass
class Place:
    """Where what was started listens."""
    tls: int
    wss: int
    # Admin port of the edge, if it is one.
    admin: int | None = None


LISTENERS = """
[listeners]
mqtt = "off"
mqtts = "127.0.0.1:{tls}"
ws = "off"
wss = "127.0.0.1:{wss}"

[[tls.certificates]]
certificate_file = "{certificate}"
key_file = "{key}"
"""
LOG = '\n[log]\nlevel = "warn"\n'


def listeners(ports, certificate):
    return LISTENERS.format(**ports, certificate=certificate / "cert.pem", key=certificate / "key.pem")


def admin(port):
    return f'\n[admin]\nlisten = "127.0.0.1:{port}"\n'


def standalone(processes, options, certificate):
    """`tidegate standalone` on its embedded store."""
    ports = free_ports(["tls", "wss", "admin"])
    config = processes.directory / "tidegate.toml"
    config.write_text(listeners(ports, certificate) + f'\n[data]\ndir = "{processes.directory / "data"}"\n' + admin(ports["admin"]) + LOG)
    processes.start("tidegate", [options.tidegate, "--config", str(config)])
    processes.wait_until("tidegate", lambda: is_ready(ports["admin"]) and answers(ports["tls"]) and answers(ports["wss"]))
    return Place(ports["tls"], ports["wss"], ports["admin"])


def tiers(processes, options, certificate):
    """An edge, a worker and a Redis server."""
    directory = processes.directory
    ports = free_ports(["tls", "wss", "admin", "redis", "link", "worker_admin"])
    certs = directory / "certs"
    subprocess.run([options.tidegate, "certs", certs], check=True, capture_output=True)
    processes.start("redis", [
        options.redis, "--port", str(ports["redis"]), "--bind", "127.0.0.1", "--dir", str(directory), "--save", "",
        "--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"])
    processes.wait_until("redis", lambda: answers(ports["redis"], b"PING\r\n", b"PONG"))
    worker = directory / "worker.toml"
    worker.write_text(f"""
[link]
listen = "127.0.0.1:{ports["link"]}"

[passport]
verify_key_files = ["{certs / "passport.pem"}"]

[redis]
nodes = ["redis://127.0.0.1:{ports["redis"]}"]
worker = "worker-0"
""" + admin(ports["worker_admin"]) + LOG)
    processes.start("worker", [options.tidegate, "broker", "--config", str(worker)])
    processes.wait_until("worker", lambda: is_ready(ports["worker_admin"]))
    edge = directory / "edge.toml"
    edge.write_text(listeners(ports, certificate) + f"""
[workers]
addresses = ["127.0.0.1:{ports["link"]}"]

[workers.passport]
signing_key_file = "{certs / "passport.key"}"
""" + admin(ports["admin"]) + LOG)
    processes.start("edge", [options.tidegate, "lb", "--config", str(edge)])
    processes.wait_until("edge", lambda: is_ready(ports["admin"]) and answers(ports["tls"]) and answers(ports["wss"]))
    return Place(ports["tls"], ports["wss"], ports["admin"])


def haproxy(processes, options, certificate):
    """HAProxy that ends TLS and passes bytes on to Mosquitto."""
    directory = processes.directory
    ports = free_ports(["tls", "wss", "mqtt", "ws"])
    broker = directory / "mosquitto.conf"
    broker.write_text(f"""
user {os.environ.get("USER", "root")}
allow_anonymous true
set_tcp_nodelay true
persistence true
persistence_location {directory}/
log_type error
listener {ports["mqtt"]} 127.0.0.1
listener {ports["ws"]} 127.0.0.1
protocol websockets
""")
    processes.start("mosquitto", [options.mosquitto, "-c", str(broker)])
    processes.wait_until("mosquitto", lambda: answers(ports["mqtt"]) and answers(ports["ws"]))
    both = directory / "both.pem"
    both.write_text((certificate / "cert.pem").read_text() + (certificate / "key.pem").read_text())
    config = directory / "haproxy.cfg"
    config.write_text("\n".join([
        "defaults", "  mode tcp", "  timeout connect 5s", "  timeout client 1h", "  timeout server 1h",
        *(line for front, back in (("tls", "mqtt"), ("wss", "ws")) for line in (
            f"listen {front}", f"  bind 127.0.0.1:{ports[front]} ssl crt {both}", f"  server mosquitto 127.0.0.1:{ports[back]}")),
    ]) + "\n")
    processes.start("haproxy", [options.haproxy, "-f", str(config), "-db"])
    processes.wait_until("haproxy", lambda: answers(ports["tls"]) and answers(ports["wss"]))
    return Place(ports["tls"], ports["wss"])


SETUPS = {"standalone": standalone, "tiers": tiers, "haproxy": haproxy}


# Below those that the system gives to clients: one that a client has had is not free for whoever listens at all addresses.
PORTS = range(20_000, 32_000)


def free_ports(names):
    with contextlib.ExitStack() as stack:
        ports = {}
        for port in random.sample(PORTS, len(PORTS)):
            if len(ports) == len(names):
                break
            one = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                one.bind(("", port))
                ports[names[len(ports)]] = port
        return ports


def answers(port, request=None, expected=b""):
    """Whether something listens on `port`, and says `expected` to `request`."""
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        if request is None:
            return True
        connection.sendall(request)
        return expected in connection.recv(4096)


def is_ready(port):
    return answers(port, b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n", b" 200 ")


KEYS = {
    "rsa4096": ["-newkey", "rsa:4096"],
    "p256": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
}


def make_certificate(directory, key):
    """A self-signed certificate for localhost."""
    directory.mkdir()
    subprocess.run(
        ["openssl", "req", "-x509", *KEYS[key], "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", directory / "key.pem", "-out", directory / "cert.pem"],
        check=True, capture_output=True)
    return directory


def generate(options, arguments, timeout_s):
    """One run of the generator: its figures, or what went wrong under "error"."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        command = [options.load, *arguments, "--json", out.name]
        if options.generator_cores:
            command = ["taskset", "-c", options.generator_cores, *command]
        progress = None if options.verbose else subprocess.PIPE
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=progress, text=True) as generator:
            try:
                _, errors = generator.communicate(timeout=timeout_s)
            except BaseException:
                generator.kill()
                raise
        if generator.returncode != 0:
            lines = [line for line in (errors or "").splitlines() if line.startswith("error")]
            return {"error": lines[-1] if lines else f"the generator ended with {generator.returncode}"}
        return json.load(out)


def add_options(parser):
    """The options that all of these scripts have."""
    release = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release"
    path = os.environ["PATH"] + ":/usr/sbin"
    parser.add_argument("--tidegate", default=str(release / "tidegate"), help="release binary (default: %(default)s)")
    parser.add_argument("--load", default=str(release / "tidegate-load"), help="the generator (default: %(default)s)")
    for name, binary in (("redis", "redis-server"), ("haproxy", "haproxy"), ("mosquitto", "mosquitto")):
        parser.add_argument(f"--{name}", default=shutil.which(binary, path=path), help="binary (default: %(default)s)")
    parser.add_argument("--cores", default="0", help='of what is measured, "" for all (default: %(default)s)')
    parser.add_argument("--generator-cores", default="1", help='of the generator, "" for all (default: %(default)s)')
    parser.add_argument("--verbose", action="store_true", help="show the progress of the generator")
    parser.add_argument("--json", type=Path, help="write all figures to this file")


def check_binaries(options, setups):
    """Ends the program where a binary that these set-ups need is not there."""
    wanted = {"load": options.load}
    if setups & {"standalone", "tiers"}:
        wanted["tidegate"] = options.tidegate
    if "tiers" in setups:
        wanted["redis"] = options.redis
    if "haproxy" in setups:
        wanted |= {"haproxy": options.haproxy, "mosquitto": options.mosquitto}
    for name, binary in wanted.items():
        if binary is None or not os.access(binary, os.X_OK):
            raise SystemExit(f"--{name}: {binary} is not there; see loadtests/README.md")
        # What is started has a working directory of its own.
        setattr(options, name, os.path.abspath(binary))
