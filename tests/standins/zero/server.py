"""A stand-in for the Zero e-mail service: it keeps Zero's contract towards whoever runs it, and is no mail program.

What it keeps (measured on the real one): it listens on 3000 (``PORT`` moves it); migrates its own tables at every start
(11 tables ``mail0_*``, schema ``drizzle``, idempotent) and needs CREATE on the database and on schema public for that; ends
with 1 and Zero's own message when DATABASE_URL is missing or wrong, without trying again; answers ``GET /health`` and
``GET /api/auth/ok`` without asking the database; answers 500 on the pages of its login, while it runs, when
GOOGLE_CLIENT_ID or GOOGLE_CLIENT_SECRET is missing; has the OAuth callback at ``/api/auth/callback/google``; and the documented
e-mail API (``POST /api/emails/send``, ``GET /api/emails``) behind the bearer token in ZERO_API_TOKEN. Mails are kept in its
database (table ``standin_email``) and go nowhere. With DROP_AGENT_TABLES=true a start drops ``mail0_summary`` and makes it anew
(which tables the real one drops is the image's own affair).

For tests, ``STANDIN_FAULT`` makes it misbehave: ``crash`` (exit 1 soon after its migrations, before it listens), ``fall`` (exit
1 a second after it listens), ``broken`` (500 on every path), ``deaf`` (runs, never listens), ``silent`` (listens, never answers), ``greedy`` (eats memory until it is killed), ``slow``
(listens after 2 s).
"""

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import psycopg

TABLES = {
    "mail0_user": "id text PRIMARY KEY, name text, email text UNIQUE, created_at timestamptz DEFAULT now()",
    "mail0_session": "id text PRIMARY KEY, user_id text, token text UNIQUE, expires_at timestamptz",
    "mail0_account": "id text PRIMARY KEY, user_id text, provider_id text, access_token text, refresh_token text",
    "mail0_verification": "id text PRIMARY KEY, identifier text, value text, expires_at timestamptz",
    "mail0_connection": "id text PRIMARY KEY, user_id text, email text, provider_id text, created_at timestamptz DEFAULT now()",
    "mail0_early_access": "id text PRIMARY KEY, email text UNIQUE, created_at timestamptz DEFAULT now()",
    "mail0_jwks": "id text PRIMARY KEY, public_key text, private_key text, created_at timestamptz DEFAULT now()",
    "mail0_note": "id text PRIMARY KEY, user_id text, thread_id text, content text, created_at timestamptz DEFAULT now()",
    "mail0_summary": "message_id text PRIMARY KEY, content text, connection_id text, saved boolean DEFAULT false",
    "mail0_user_hotkeys": "user_id text PRIMARY KEY, shortcuts jsonb, updated_at timestamptz DEFAULT now()",
    "mail0_user_settings": "id text PRIMARY KEY, user_id text UNIQUE, settings jsonb, updated_at timestamptz DEFAULT now()",
}
STARTED = time.monotonic()
FAULT = os.environ.get("STANDIN_FAULT", "")


def database() -> psycopg.Connection:
    """A connection to the database of DATABASE_URL, given up after 32 s as by the driver of the real one."""
    return psycopg.connect(os.environ["DATABASE_URL"], connect_timeout=32, autocommit=True)


def migrate() -> None:
    """Make the tables when they are missing; ends the process with Zero's message when that cannot be."""
    url = urlsplit(os.environ.get("DATABASE_URL", ""))
    address = f"{url.hostname or '127.0.0.1'}:{url.port or 5432}"
    try:
        with database() as connection:
            connection.execute("CREATE SCHEMA IF NOT EXISTS drizzle")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS drizzle.__drizzle_migrations (id serial PRIMARY KEY, hash text UNIQUE, created_at bigint)"
            )
            for table, columns in TABLES.items():
                connection.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns})")
            if os.environ.get("DROP_AGENT_TABLES") == "true":
                print("DROP_AGENT_TABLES is set: mail0_summary is dropped and made anew", flush=True)
                connection.execute("DROP TABLE IF EXISTS mail0_summary")
                connection.execute(f"CREATE TABLE mail0_summary ({TABLES['mail0_summary']})")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS standin_email "
                "(id serial PRIMARY KEY, recipient text, subject text, body text, sent_at timestamptz DEFAULT now())"
            )
            connection.execute(
                "INSERT INTO drizzle.__drizzle_migrations (hash, created_at) VALUES ('standin-1', 0) ON CONFLICT DO NOTHING"
            )
    except KeyError:
        die("Error: DATABASE_URL environment variable is not set")
    except psycopg.Error as error:
        text = str(error)
        if "refused" in text:
            die(f"Error: connect ECONNREFUSED {address}")
        if "timeout" in text or "timed out" in text:
            die(f"Error: write CONNECT_TIMEOUT {address}")
        die("PostgresError: " + text.split("FATAL:")[-1].strip().splitlines()[0])


def die(message: str) -> None:
    """End as the real one does when its migrations fail."""
    print(message, file=sys.stderr, flush=True)
    sys.exit(1)


class Zero(BaseHTTPRequestHandler):
    """The paths of the contract."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if self.faulty():
            return
        if path == "/health":
            self.answer(200, {"message": "Zero Server is Up!"})
        elif path == "/api/emails":
            self.list_emails()
        elif not (os.environ.get("GOOGLE_CLIENT_ID") and os.environ.get("GOOGLE_CLIENT_SECRET")):
            self.answer(500, {"error": "Google is not configured"})
        elif path == "/api/auth/ok":
            self.answer(200, {"ok": True})
        elif path == "/api/auth/callback/google":
            query = parse_qs(urlsplit(self.path).query)
            self.answer(302 if "code" in query and "state" in query else 400, {"error": "state_mismatch"}, location="/")
        elif path == "/":
            self.answer(200, {"name": "Zero (stand-in)", "url": os.environ.get("BETTER_AUTH_URL", "")})
        else:
            self.answer(404, {"error": "not found"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.faulty():
            return
        if urlsplit(self.path).path != "/api/emails/send":
            self.answer(404, {"error": "not found"})
        elif self.allowed():
            try:
                mail = json.loads(body)
                values = (mail["to"], mail["subject"], mail.get("body", ""))
            except (ValueError, KeyError, TypeError):
                self.answer(400, {"error": "to and subject are needed"})
                return
            with database() as connection:
                row = connection.execute(
                    "INSERT INTO standin_email (recipient, subject, body) VALUES (%s, %s, %s) RETURNING id", values
                ).fetchone()
            self.answer(200, {"success": True, "id": row[0] if row else None})

    def list_emails(self) -> None:
        if self.allowed():
            with database() as connection:
                rows = connection.execute(
                    "SELECT id, recipient, subject, body, sent_at FROM standin_email ORDER BY id DESC LIMIT 100"
                ).fetchall()
            fields = ("id", "to", "subject", "body", "sent_at")
            self.answer(
                200, {"emails": [dict(zip(fields, (*row[:4], row[4].isoformat()), strict=True)) for row in rows]}
            )

    def allowed(self) -> bool:
        token = os.environ.get("ZERO_API_TOKEN")
        good = bool(token) and self.headers.get("authorization") == f"Bearer {token}"
        if not good:
            self.answer(401, {"error": "unauthorized"})
        return good

    def faulty(self) -> bool:
        if FAULT == "broken":
            self.answer(500, {"error": "broken on purpose"})
        elif FAULT == "silent":
            time.sleep(3600)
        return FAULT in ("broken", "silent")

    def answer(self, code: int, content: object, location: str = "") -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        if code == 302:
            self.send_header("location", location)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, template: str, *values: object) -> None:
        print(f"{self.command} {urlsplit(self.path).path} {values[1] if len(values) > 1 else ''}", flush=True)


class Server(ThreadingHTTPServer):
    """Threads that do not keep it from ending; a queue long enough for a burst of probes."""

    daemon_threads = True
    request_queue_size = 128

    def server_bind(self) -> None:
        # HTTPServer looks up the host's name here, which can take seconds without DNS.
        self.socket.setsockopt(1, 2, 1)  # SOL_SOCKET, SO_REUSEADDR
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "zero", self.server_address[1]


def main() -> None:
    print("Running migrations", flush=True)
    migrate()
    print(f"Migrations applied in {time.monotonic() - STARTED:.2f} s", flush=True)
    if FAULT == "deaf":
        time.sleep(3600)
    if FAULT == "greedy":
        eaten = []
        while True:
            eaten.append(bytearray(b"x" * (8 << 20)))
    if FAULT == "slow":
        time.sleep(2)
    if FAULT == "crash":
        time.sleep(0.3)
        die("Error: crashed on purpose")
    if FAULT == "fall":
        threading.Timer(1, lambda: os._exit(1)).start()
    port = int(os.environ.get("PORT") or 3000)
    server = Server(("0.0.0.0", port), Zero)
    print(f"Zero (stand-in) listens on {port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
