"""A mail server that throws everything away: ``python -m tests.bench.backups.sink CERT KEY``; prints its two ports as JSON.

The first speaks SMTP over TLS. The second takes bytes over TLS without any protocol. Both read a mail with the same loop and
answer when its last dot came, so that what a mail costs here costs the same on both sides of the figure.
"""

import json
import socket
import socketserver
import ssl
import sys
import threading

PIECE = 1 << 18
END = b"\r\n.\r\n"
_ANSWERS = {
    b"EHLO": b"250-sink\r\n250-SIZE 73400320\r\n250 AUTH PLAIN\r\n",
    b"AUTH": b"235 ok\r\n",
    b"DATA": b"354 go on\r\n",
}


class Plain(socketserver.BaseRequestHandler):
    """Reads one mail and answers."""

    def setup(self) -> None:
        """Answer at once, as mail servers do."""
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def handle(self) -> None:
        """Until the last dot."""
        self.take()

    def take(self) -> None:
        """Read to the last dot, keep nothing, and answer."""
        piece, last = bytearray(PIECE), b""
        while last != END:
            count = self.request.recv_into(piece)
            if not count:
                return
            last = (last + piece[max(0, count - len(END)) : count])[-len(END) :]
        self.request.sendall(b"250 taken\r\n")


class Smtp(Plain):
    """Speaks as much SMTP as a client needs."""

    def handle(self) -> None:
        """Until QUIT."""
        self.request.sendall(b"220 sink\r\n")
        while line := self.request.recv(4096):
            word = line[:4].upper()
            if word == b"QUIT":
                self.request.sendall(b"221 bye\r\n")
                return
            self.request.sendall(_ANSWERS.get(word, b"250 ok\r\n"))
            if word == b"DATA":
                self.take()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, handler: type[Plain], context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return self.server_address[1]


def main() -> None:
    """Serve until whoever started us closes our standard input, by ending if need be."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*sys.argv[1:3])
    print(json.dumps([_Server(handler, context).port for handler in (Smtp, Plain)]), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
