"""MQTT.js in a page of headless Chromium, over WSS: browser.py URL USER PASSWORD CA MQTTJS

The browser knows the authority CA as a user's browser does, from its own database of certificates (certutil); without it the page has to
be refused. MQTTJS is the library's file for browsers. Exits 0 when all went well."""

import http.server
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import urllib.parse
from pathlib import Path

URL, USER, PASSWORD, CA, MQTTJS = sys.argv[1:]
DEADLINE_S = 90
FILES = {"/": (Path(__file__).with_name("browser.html"), "text/html"), "/mqtt.js": (Path(MQTTJS), "text/javascript")}
results = queue.Queue()


class Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        file, kind = FILES.get(self.path, (None, "text/plain"))
        self.answer(200 if file else 404, kind, file.read_bytes() if file else b"")

    def do_POST(self):
        results.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.answer(204, "text/plain", b"")

    def answer(self, status, kind, body):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def open_page(server, home, name):
    """What the page says of itself, in a browser that has this as its home directory."""
    told = json.dumps({"url": URL, "user": USER, "password": PASSWORD, "name": name})
    # As root it has no sandbox; the page is our own.
    sandbox = ["--no-sandbox"] if os.getuid() == 0 else []
    with open(home / "log", "w") as log:
        browser = subprocess.Popen(
            ["chromium", "--headless", *sandbox, "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             f"--user-data-dir={home / 'profile'}", f"http://localhost:{server.server_port}/#{urllib.parse.quote(told)}"],
            env=os.environ | {"HOME": str(home)}, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        return results.get(timeout=DEADLINE_S)
    except queue.Empty:
        return f"the page says nothing:\n{(home / 'log').read_text()[-2000:]}"
    finally:
        browser.terminate()
        browser.wait()


def main():
    server = http.server.ThreadingHTTPServer(("localhost", 0), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        database = home / ".pki" / "nssdb"
        database.mkdir(parents=True)
        certutil = lambda *words: subprocess.run(["certutil", "-d", f"sql:{database}", *words], check=True)
        certutil("-N", "--empty-password")
        strange = open_page(server, home, f"page-{os.getpid()}-strange")
        if not strange.startswith("failed: "):
            sys.exit(f"without the authority: {strange}")
        certutil("-A", "-n", "tidegate", "-t", "C,,", "-i", CA)
        trusted = open_page(server, home, f"page-{os.getpid()}")
        if trusted != "passed":
            sys.exit(f"with the authority: {trusted}")


main()
