#!/usr/bin/env python3
"""A service of authentication of one's own, in place of `tidegate authsvc`: authsvc.py [PORT]

It answers POST /v1/authenticate and POST /v1/authorize (docs/openapi/authsvc.yaml) and needs nothing but Python. It signs no passports: the edge does,
by workers.passport.signing_key_file. An edge asks it by

    [authsvc]
    urls = ["http://127.0.0.1:8080"]
"""

import base64
import hashlib
import hmac
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def hashed(salt, password):
    return hashlib.scrypt(password, salt=salt, n=2**14, r=8, p=1)


# From here on it is yours: a table of users stands for whatever you have.
USERS = {"alice": (b"salt of alice", hashed(b"salt of alice", b"secret"))}
NOBODY = (b"salt of nobody", b"")
BODY_BYTES_MAX = 256 * 1024


def decide(question):
    """The answer to one question."""
    salt, known = USERS.get(question.get("username"), NOBODY)
    password = base64.b64decode(question.get("password") or "")
    # Hashed in any case, so that the time does not tell who is known.
    if not hmac.compare_digest(hashed(salt, password), known):
        return {"result": "deny", "reason": "bad_credentials"}
    return {
        "result": "allow",
        "subject": question["username"],
        "rules": [
            {"effect": "allow", "action": "all", "topics": ["devices/%c/#"]},
            {"effect": "allow", "action": "subscribe", "topics": ["news/#"]},
            # Asked about one by one, by workers that have the section too; see rule() below.
            {"effect": "ask", "action": "all", "topics": ["orders/#"]},
        ],
        # The edge asks again before this has passed.
        "expires_in": 3600,
    }


def rule(action):
    """The answer about one action."""
    is_own = action["topic"].startswith("orders/" + action["subject"] + "/")
    return {"result": "allow" if is_own else "deny", "max_age": 30}


QUESTIONS = {"/v1/authenticate": decide, "/v1/authorize": rule}


class Handler(BaseHTTPRequestHandler):
    # Connections are kept for further questions.
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self):
        # An edge asks for /livez now and then; whatever it is answered, this is alive. Who has no revocations says 404.
        if self.path == "/livez":
            self.answer(200, {})
        else:
            self.answer(404, {"error": "there is nothing here"})

    def do_POST(self):
        length = int(self.headers.get("Content-Length") or 0)
        if length > BODY_BYTES_MAX:
            self.close_connection = True
            return self.answer(413, {"error": "the body is too long"})
        body = self.rfile.read(length)
        decides = QUESTIONS.get(self.path)
        if decides is None:
            return self.answer(404, {"error": "there is nothing here"})
        try:
            answer = decides(json.loads(body))
        except (ValueError, KeyError, TypeError, AttributeError):
            return self.answer(400, {"error": "not a question"})
        self.answer(200, answer)

    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8080
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
