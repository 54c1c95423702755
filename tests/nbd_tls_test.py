#!/usr/bin/env python3
"""NBD under TLS as packaged clients see it: certificates by certtool, the clients libnbd and nbdinfo."""
import subprocess

import support
from support import GIB, MIB


def authority(sandbox, name):
    key, cert = sandbox.path / f"{name}-key.pem", sandbox.path / f"{name}-cert.pem"
    template = sandbox.file(f"{name}.cfg", f'cn = "{name}"\nca\ncert_signing_key\n'.encode())
    support.run("certtool", "--generate-privkey", "--key-type", "ecdsa", "--outfile", key)
    support.run("certtool", "--generate-self-signed", "--load-privkey", key, "--template", template,
                "--outfile", cert)
    return key, cert


def certificate(sandbox, name, template, signer):
    """A key and a certificate that `signer` signed, as libnbd wants to find them: in a directory."""
    folder = sandbox.path / name
    folder.mkdir()
    kind = "server" if "tls_www_server" in template else "client"
    key, cert = folder / f"{kind}-key.pem", folder / f"{kind}-cert.pem"
    config = sandbox.file(f"{name}.cfg", template.encode())
    support.run("certtool", "--generate-privkey", "--key-type", "ecdsa", "--outfile", key)
    support.run("certtool", "--generate-certificate", "--load-privkey", key, "--load-ca-privkey", signer[0],
                "--load-ca-certificate", signer[1], "--template", config, "--outfile", cert)
    (folder / "ca-cert.pem").write_bytes(signer[1].read_bytes())
    return folder


class World:
    """Certificates and keys, and a server that asks for them."""

    def __init__(self, sandbox, rules=None, reach="127.0.0.1"):
        support.need("certtool", "nbdinfo")
        self.sandbox, self.nbd = sandbox, support.libnbd()
        ca = authority(sandbox, "ca")
        server = certificate(sandbox, "server", 'cn = "server"\ndns_name = "localhost"\n'
                             'ip_address = "127.0.0.1"\ntls_www_server\n', ca)
        self.one = certificate(sandbox, "one", 'cn = "one"\ndns_name = "one.example"\ntls_www_client\n', ca)
        self.two = certificate(sandbox, "two", 'cn = "two"\ntls_www_client\n', ca)
        self.expired = certificate(sandbox, "expired", 'cn = "one"\ntls_www_client\n'
                                   'activation_date = "2001-01-01 00:00:00"\n'
                                   'expiration_date = "2002-01-01 00:00:00"\n', ca)
        self.stranger = certificate(sandbox, "stranger", 'cn = "one"\ntls_www_client\n',
                                    authority(sandbox, "other"))
        (self.stranger / "ca-cert.pem").write_bytes(ca[1].read_bytes())
        self.keys = sandbox.file("keys.psk", b"alice:" + b"5a" * 32 + b"\n")
        self.wrong_keys = sandbox.file("wrong.psk", b"alice:" + b"a5" * 32 + b"\n")
        for path in (self.keys, self.wrong_keys):
            path.chmod(0o600)
        words = ["--nbd-tcp", f"{reach}:0", "--nbd-tls-cert", server / "server-cert.pem", "--nbd-tls-key",
                 server / "server-key.pem", "--nbd-tls-ca", ca[1], "--nbd-tls-psk", self.keys]
        if rules is not None:
            words += ["--nbd-tls-authz", sandbox.file("rules", rules.encode())]
        self.server = support.Server(sandbox, "up", "s", *words)
        lines = [line.split() for line in self.server.said.splitlines()]
        address, note = next(line[1:3] for line in lines if line[:1] == ["NBD"] and "unix:" not in line[1])
        assert note == "(TLS)", note
        self.port = int(address.rpartition(":")[2])
        for name in ("a", "b"):
            self.server.create(name)

    def client(self, folder=None, psk=None, user="alice", tls=True):
        handle = self.nbd.NBD()
        handle.set_tls(self.nbd.TLS_REQUIRE if tls else self.nbd.TLS_DISABLE)
        if folder is not None:
            handle.set_tls_certificates(str(folder))
        if psk is not None:
            handle.set_tls_psk_file(str(psk))
            handle.set_tls_username(user)
        return handle

    def connect(self, name, **who):
        handle = self.client(**who)
        handle.set_export_name(name)
        handle.connect_tcp("127.0.0.1", str(self.port))
        return handle

    def refused(self, name, **who):
        try:
            handle = self.connect(name, **who)
            handle.pread(512, 0)
        except self.nbd.Error as error:
            return str(error)
        raise AssertionError(f"{name} was served to {who}")


def clients(sandbox):
    """Certificates and keys are accepted, and what is written under TLS is there in plain text too."""
    world = World(sandbox)
    data = bytes(range(256)) * 4096
    for name, who in (("a", {"folder": world.one}), ("b", {"psk": world.keys})):
        handle = world.connect(name, **who)
        assert handle.get_tls_negotiated() and handle.get_size() == GIB
        handle.pwrite(data, MIB)
        handle.flush()
        assert handle.pread(len(data), MIB) == data
        handle.shutdown()
        plain = world.nbd.NBD()
        plain.connect_uri(support.Volume(world.server, name).uri())
        assert plain.pread(len(data), MIB) == data
    uri = f"nbds://alice@127.0.0.1:{world.port}/a?tls-psk-file={world.keys}"
    said = support.run("nbdinfo", uri)
    assert "newstyle-fixed with TLS" in said, said


def refusals(sandbox):
    """Whoever cannot prove who it is sees nothing, not even which exports there are."""
    world = World(sandbox)
    for who in ({"tls": False}, {"folder": world.expired}, {"folder": world.stranger},
                {"psk": world.wrong_keys}, {"psk": world.keys, "user": "bob"}):
        world.refused("a", **who)
    listing = support.run("nbdinfo", "--list", f"nbd://127.0.0.1:{world.port}", ok=False)
    assert listing.returncode != 0 and "export=" not in listing.stdout, listing.stdout
    log = world.server.log()
    assert "5a5a" not in log and "BEGIN" not in log, log
    assert world.connect("a", folder=world.one).get_size() == GIB


def authorization(sandbox):
    """A rule file says who sees which export; the others look as if they were not there."""
    world = World(sandbox, rules="dns:one.example a\ncn:two *\npsk:alice b\n")
    seen = {}
    for who, options in (("one", {"folder": world.one}), ("two", {"folder": world.two}),
                         ("alice", {"psk": world.keys})):
        handle = world.client(**options)
        handle.set_opt_mode(True)
        handle.connect_tcp("127.0.0.1", str(world.port))
        names = []
        handle.opt_list(lambda name, text, names=names: names.append(name))
        seen[who] = sorted(names)
        handle.opt_abort()
    assert seen == {"one": ["a"], "two": ["a", "b"], "alice": ["b"]}, seen
    foreign, absent = world.refused("b", folder=world.one), world.refused("c", folder=world.one)
    assert foreign.replace("'b'", "'c'") == absent, (foreign, absent)
    assert world.connect("", folder=world.one).get_size() == GIB  # the only one that it may use
    assert world.connect("b", folder=world.two).get_size() == GIB


def reach(sandbox):
    """An address that others can reach needs TLS."""
    plain = support.run(support.BINARY, "--state", sandbox.path / "p", "up", "--nbd-tcp", "0.0.0.0:0",
                        ok=False)
    assert plain.returncode == 1 and "0.0.0.0" in plain.stderr and "TLS" in plain.stderr, plain.stderr
    world = World(sandbox, reach="0.0.0.0")
    assert world.connect("a", psk=world.keys).get_size() == GIB


def bad_files(sandbox):
    """What is wrong with a file is said with its flag and its name, and nothing is served."""
    empty, open_keys = sandbox.file("empty"), sandbox.file("open", b"alice:" + b"5a" * 32)
    empty.chmod(0o600)
    open_keys.chmod(0o644)
    for words, says in ((["--nbd-tls-psk", "/nonexistent"], "--nbd-tls-psk /nonexistent"),
                        (["--nbd-tls-psk", empty], "is empty"),
                        (["--nbd-tls-psk", open_keys], "expected 0600"),
                        (["--nbd-tls-cert", empty], "--nbd-tls-key"),
                        (["--nbd-tls-authz", empty], "--nbd-tls-cert or --nbd-tls-psk")):
        done = subprocess.run([support.BINARY, "--state", str(sandbox.path / "s"), "up",
                               *[str(word) for word in words]], capture_output=True, text=True, timeout=60,
                              check=False)
        assert done.returncode == 1 and says in done.stderr and "5a5a" not in done.stderr, done.stderr


if __name__ == "__main__":
    support.main({"clients": clients, "refusals": refusals, "authorization": authorization, "reach": reach,
                  "bad_files": bad_files})
