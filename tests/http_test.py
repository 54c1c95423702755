"""The control API as JSON over HTTP: the answers of gRPC, and a refusal for what is no call of it."""
import json
import socket
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

    def call(self, method, **fields):
        return self.ask(SERVICE + method, json.dumps(fields).encode())


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
    assert client.call("DeleteVolume", name="db") == (200, {})
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
    # Too large, and said so before it is read: the status, or an end of the connection, but no answer of 200.
    try:
        status, _ = client.ask(good, b" " * (5 * MIB))
        assert status == 413, status
    except (urllib.error.URLError, ConnectionError):
        pass
    # What is no HTTP at all.
    host, port = client.base.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=support.DEADLINE) as raw:
        raw.sendall(b"\x00\x01NBDMAGIC\r\n\r\n")
        raw.recv(4096)
    assert client.ask(good)[0] == 200
    # The port is taken; nothing else is an address.
    for address, part in ((f"{host}:{port}", port), ("0.0.0.0:0", '"0.0.0.0:0"'), ("unix:/tmp/x", "port")):
        other = support.run(support.BINARY, "--state", sandbox.path / "other", "up", "--http", address,
                            ok=False)
        assert other.returncode == 1 and part in other.stderr, other.stderr
        assert other.stderr.count("foreshadow: ") == 1, other.stderr
    # Stops with a connection open that says nothing.
    with socket.create_connection((host, int(port)), timeout=support.DEADLINE):
        server.stop()


if __name__ == "__main__":
    support.main({"calls": calls, "refusals": refusals})
