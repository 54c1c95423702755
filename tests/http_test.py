"""The control API as JSON over HTTP: the answers of gRPC, and a refusal for what is no call of it."""
import contextlib
import gzip
import json
import resource
import socket
import time
import urllib.error
import urllib.request

import support
from support import GIB, MIB

SERVICE = "/foreshadow.v1.ControlService/"
JSON = {"Content-Type": "application/json"}


class Client:
    def __init__(self, server):
        lines = [line.split() for line in server.said.splitlines()]
        self.base = next(words[1] for words in lines if words[0] == "HTTP")
        assert self.base.startswith("http://127.0.0.1:"), self.base

    def ask(self, path, body=b"{}", headers=None, method="POST"):
        """(status, JSON of the answer)"""
        headers = JSON if headers is None else headers
        request = urllib.request.Request(self.base + path, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=support.DEADLINE) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            assert error.headers["Content-Type"] == "application/json", error.headers
            return error.code, json.loads(error.read())

    @property
    def address(self):
        host, port = self.base.removeprefix("http://").split(":")
        return host, int(port)

    def open(self):
        return socket.create_connection(self.address, timeout=support.DEADLINE)

    def call(self, method, **fields):
        return self.ask(SERVICE + method, json.dumps(fields).encode())


def take_all(raw):
    """What comes until the server closes."""
    out = b""
    with contextlib.suppress(ConnectionError):
        while part := raw.recv(65536):
            out += part
    return out


def resident(server):
    with open(f"/proc/{server.process.pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def start(sandbox):
    server = support.Server(sandbox, "up", "s", "--http", "127.0.0.1:0")
    return server, Client(server)


def calls(sandbox):
    server, client = start(sandbox)
    status, report = client.call("GetStatus")
    assert status == 200 and report["volumes"] == 0 and len(report["agents"]) == 1, report
    status, made = client.call("CreateVolume", name="db", size=GIB, primary_size=str(16 * MIB))
    assert status == 200 and made["name"] == "db" and made["size"] == str(GIB), made
    status, listed = client.call("ListVolumes")
    assert status == 200 and [volume["name"] for volume in listed["volumes"]] == ["db"], listed
    # No body is an empty request, and a charset is no other type.
    with_charset = {"Content-Type": "application/json; charset=utf-8"}
    assert client.ask(SERVICE + "ListVolumes", b"", with_charset)[0] == 200
    status, detail = client.call("GetVolume", name="db")
    assert status == 200 and detail["volume"]["id"] == server.cli("volume", "show", "db")["id"], detail
    status, granted = client.call("GrantShadow", volume="db", size=16 * MIB)
    assert status == 200 and len(granted["segments"]) >= 2, granted
    status, error = client.call("CreateVolume", name="db", size=GIB, primary_size=16 * MIB)
    assert status == 409 and error["code"] == "ALREADY_EXISTS" and '"db"' in error["message"], error
    status, error = client.call("GetVolume", name="none")
    assert status == 404 and error["code"] == "NOT_FOUND" and '"none"' in error["message"], error
    status, left = client.call("DeleteVolume", name="db")
    assert status == 200 and not any(left.values()), left
    assert server.cli("volume", "list") == []


def refusals(sandbox):
    server, client = start(sandbox)
    good = SERVICE + "GetStatus"
    cases = [
        (client.ask(SERVICE + "Explode"), 404, "Explode"),
        (client.ask("/foreshadow.v1.AgentService/Session"), 404, "AgentService"),
        (client.ask("/"), 404, "METHOD"),
        (client.ask(good, None, {}, "GET"), 404, "POST"),
        (client.ask(SERVICE + "WatchEvents"), 501, "gRPC"),
        (client.ask(good, b"{"), 400, "GetStatusRequest"),
        (client.ask(SERVICE + "GetVolume", b'{"name": 5, "colour": "red"}'), 400, "VolumeRequest"),
        (client.ask(SERVICE + "GetVolume", b'{"name":' * 5000), 400, "VolumeRequest"),
        (client.ask(good, b"\xff\xfe\x00"), 400, "GetStatusRequest"),
        (client.ask(good, b"{}", {"Content-Type": "text/plain"}), 400, '"text/plain"'),
        (client.ask(good, b"{}", {**JSON, "Host": "evil.example:80"}), 403, "evil.example"),
        (client.ask(good, b"{}", {**JSON, "Host": "127.0.0.1.evil.example"}), 403, "evil.example"),
    ]
    for number, ((status, error), expected, part) in enumerate(cases):
        assert status == expected and part in error["message"], (number, status, error)
    status, error = client.ask(good, b" " * (5 * MIB))
    assert status == 429 and "4194304" in error["message"], (status, error)
    assert client.ask(good, gzip.compress(b"{}"), {**JSON, "Content-Encoding": "gzip"})[0] == 400
    # What is no HTTP at all.
    with client.open() as raw:
        raw.sendall(b"\x00\x01NBDMAGIC\r\n\r\n")
        take_all(raw)
    assert client.ask(good)[0] == 200
    host, port = client.address
    # The port is taken; nothing else is an address.
    taken = f"{host}:{port}"
    for address, part in ((taken, str(port)), ("0.0.0.0:0", '"0.0.0.0:0"'), ("unix:/tmp/x", "port")):
        other = support.run(support.BINARY, "--state", sandbox.path / "other", "up", "--http", address,
                            ok=False)
        assert other.returncode == 1 and part in other.stderr, other.stderr
        assert other.stderr.count("foreshadow: ") == 1, other.stderr


def smuggling(sandbox):
    """Whatever is wrong with a request, what stands in its body is never taken for a request of its own."""
    server, client = start(sandbox)
    server.create("db", size="1GiB", primary="16MiB")
    inner = b'{"name":"db"}'
    hidden = (f"POST {SERVICE}DeleteVolume HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
              f"Content-Length: {len(inner)}\r\n\r\n").encode() + inner
    body = b" " * 4200 + b"\r\n" + hidden
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    path = SERVICE + "GetStatus"
    cases = [
        ("/" + "a" * 8300, [], body),
        ("/" + "a" * 70000, [], body),
        (path, ["X: " + "a" * 9000], body),
        (path, ["X: " + "a" * 70000], body),
        (path, ["Range: bytes=9-1,-"], body),
        (path, ["Content-Length: 0"], body),
        (path, ["Content-Length: -1"], body),
        (path, ["Transfer-Encoding: chunked"], chunked),
        (path, ["Transfer-Encoding: chunked", "Content-Length: 4"], chunked),
        (path, ["Transfer-Encoding : chunked"], chunked),
        (path, ["Expect: 100-continue"], body),
    ]
    for target, extra, sent in cases:
        for kind in ("text/plain", "application/json"):
            lines = [f"POST {target} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {kind}", *extra]
            if not any(line.startswith(("Content-Length", "Transfer")) for line in extra):
                lines.append(f"Content-Length: {len(sent)}")
            with client.open() as raw, contextlib.suppress(ConnectionError):
                raw.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + sent)
                assert take_all(raw).count(b"HTTP/1.1 200") <= 1, (target[:40], extra)
            assert [volume["name"] for volume in server.cli("volume", "list")] == ["db"], (target[:40], extra)


def slow_clients(sandbox):
    """Who says little or nothing, or too much, neither fills the memory nor holds up the server's stop."""
    server, client = start(sandbox)
    before = resident(server)
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(client.open()) for _ in range(8)]
        silent[0].sendall(b"POST / HTTP/1.1\r\nHost:")
        greedy = stack.enter_context(client.open())
        greedy.sendall((f"POST {SERVICE}GetStatus HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n").encode())
        for _ in range(128):
            greedy.sendall(b"100000\r\n" + b" " * MIB + b"\r\n")
        assert client.ask(SERVICE + "GetStatus")[0] == 200
        assert resident(server) < before + 64 * MIB, (before, resident(server))
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 20


if __name__ == "__main__":
    support.main({"calls": calls, "refusals": refusals, "smuggling": smuggling,
                  "slow_clients": slow_clients})
