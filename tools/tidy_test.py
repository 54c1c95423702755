#!/usr/bin/env python3
"""Plants every violation that tidy.py knows in a tree of its own; expects it found, and nothing else."""
import contextlib
import io
import os
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import tidy  # noqa: E402

UNFINISHED = "TO" "DO"


def header(*lines: str) -> str:
    return "\n".join(("#pragma once",) + lines) + "\n"


def function(body_lines: int, head: str = "int count()") -> str:
    return "\n".join([head + " {"] + ["  step();"] * body_lines + ["}"]) + "\n"


class TidyCase(unittest.TestCase):
    def found(self, files: dict[str, str]) -> list[str]:
        """`path:line: rule` of each finding in a tree of these files and one blameless one."""
        with tempfile.TemporaryDirectory() as root:
            for path, text in ({"src/base/good.h": header("int good();")} | files).items():
                full = os.path.join(root, path)
                os.makedirs(os.path.dirname(full), exist_ok=True)
                with open(full, "w", encoding="utf-8") as file:
                    file.write(text)
            return [f"{f.path}:{f.line}: {f.rule}" for f in tidy.check_tree(root)]

    def finds(self, path: str, text: str, line: int, rule: str) -> None:
        self.assertEqual(self.found({path: text}), [f"{path}:{line}: {rule}"], text[:200])

    def accepts(self, path: str, text: str) -> None:
        self.assertEqual(self.found({path: text}), [], text[:200])


class House(TidyCase):
    def test_table_is_the_drawn_one(self):
        for room, allowed in tidy.MAY_INCLUDE.items():
            for other in allowed:
                self.assertLess(tidy.RANK[other], tidy.RANK[room], f"{room} may include {other}")

    def test_every_pair_of_rooms(self):
        drawn = {
            "base": "", "io": "base", "forecast": "base", "block": "base io", "extent": "base io",
            "policy": "base forecast", "nbd": "base io block", "volume": "base io block extent",
            "backtest": "base forecast policy",
            "agent": "base io forecast block extent policy nbd volume backtest",
            "control": "base io forecast policy",
            "app": "base io forecast block extent policy nbd volume backtest agent control",
        }
        for room, allowed in drawn.items():
            for other in drawn:
                text = header(f'#include "{other}/x.h"')
                with self.subTest(room=room, other=other):
                    if other == room or other in allowed.split():
                        self.accepts(f"src/{room}/a.h", text)
                    else:
                        self.finds(f"src/{room}/a.h", text, 2, "house")

    def test_tests_obey_the_same_table(self):
        self.finds("src/block/a_test.cc", '#include "volume/volume.h"\n', 1, "house")

    def test_nothing_in_src_includes_sim(self):
        for room in ("base", "volume", "app"):
            self.finds(f"src/{room}/a.cc", '#include "sim/disk.h"\n', 1, "house")
        self.accepts("sim/a.cc", '#include "sim/disk.h"\n#include "volume/volume.h"\n')

    def test_unknown_folder(self):
        self.finds("src/cellar/a.cc", "int x();\n", 1, "house")

    def test_include_form(self):
        for name in ('"good.h"', '"../base/good.h"', '"gtest/gtest.h"', "<base/good.h>",
                     '"base/deep/good.h"'):
            with self.subTest(name=name):
                self.finds("src/base/a.cc", f"#include {name}\n", 1, "include-form")

    def test_includes_in_comments_and_strings_do_not_count(self):
        self.accepts("src/base/a.cc", '// #include "app/x.h"\n/*\n#include "app/x.h"\n*/\n'
                     'const char* x = R"(\n#incl(ude "app/x.h")";\n')

    def test_indented_and_spaced_includes_count(self):
        self.finds("src/base/a.cc", 'int x;\n  #  include "app/x.h"\n', 2, "house")


class Quarantine(TidyCase):
    # Header, the rooms it is at home in (or the one file).
    TABLE = [
        ("grpcpp/grpcpp.h", "agent control app"), ("grpc/grpc.h", "agent control app"),
        ("google/protobuf/message.h", "agent control app"), ("foreshadow/v1/agent.pb.h", "agent control app"),
        ("liburing.h", "io app"), ("sys/socket.h", "io app"), ("fcntl.h", "io app"), ("unistd.h", "io app"),
        ("sys/un.h", "io app"), ("netinet/in.h", "io app"), ("arpa/inet.h", "io app"),
        ("sys/uio.h", "io nbd app"), ("sqlite3.h", "control"), ("microhttpd.h", "control"),
        ("rbd/librbd.h", "block"), ("rados/librados.h", "block"),
        ("spdlog/spdlog.h", ""), ("isa-l/crc.h", ""), ("isa-l.h", ""),
        ("lz4.h", ""), ("lz4hc.h", ""), ("zstd.h", ""),
        ("gnutls/gnutls.h", ""), ("gnutls/x509.h", ""),
    ] + [(name, "io backtest agent control app") for name in
         ("thread", "mutex", "shared_mutex", "condition_variable", "atomic", "future", "semaphore", "latch",
          "barrier", "stop_token", "pthread.h")]

    def test_every_header_in_every_room(self):
        for name, homes in self.TABLE:
            for room in tidy.RANK:
                needed = "#include <sqlite3.h>\n" if room == "control" and name != "sqlite3.h" else ""
                text = f"{needed}#include <{name}>\n"
                with self.subTest(name=name, room=room):
                    if room in homes.split():
                        self.accepts(f"src/{room}/a.cc", text)
                    else:
                        self.finds(f"src/{room}/a.cc", text, 2 if needed else 1, "quarantine")

    def test_homes_that_are_one_file(self):
        self.accepts("src/base/log.cc", "#include <spdlog/spdlog.h>\n")
        self.finds("src/base/log.h", header("#include <spdlog/spdlog.h>"), 2, "quarantine")
        self.accepts("src/base/crc32c.cc", "#include <isa-l/crc.h>\n")
        self.accepts("src/volume/squeeze_codec.cc", "#include <lz4.h>\n#include <zstd.h>\n")
        self.accepts("src/nbd/tls.cc", "#include <gnutls/gnutls.h>\n")
        self.finds("src/nbd/session.cc", "#include <gnutls/gnutls.h>\n", 1, "quarantine")

    def test_generated_headers_in_quotes(self):
        self.finds("src/volume/a.cc", '#include "foreshadow/v1/agent.pb.h"\n', 1, "quarantine")
        self.accepts("src/agent/a.cc", '#include "foreshadow/v1/agent.pb.h"\n')

    def test_second_file(self):
        for folder, name in (("control", "sqlite3.h"), ("control", "microhttpd.h"),
                             ("block", "rbd/librbd.h")):
            text = f"#include <{name}>\n"
            store = {"src/control/store.cc": "#include <sqlite3.h>\n"} if name == "microhttpd.h" else {}
            self.assertEqual(self.found({f"src/{folder}/a.cc": text, f"src/{folder}/b.cc": text, **store}),
                             [f"src/{folder}/b.cc:1: quarantine"])

    def test_control_without_a_store(self):
        self.assertEqual(self.found({"src/control/a.cc": "int x();\n"}), ["src/control:1: quarantine"])

    def test_sim_makes_no_syscalls(self):
        self.finds("sim/disk.cc", "#include <unistd.h>\n", 1, "quarantine")
        self.accepts("tests/run.cc", "#include <unistd.h>\n")


class Purity(TidyCase):
    CLOCKS = ("std::chrono::system_clock::now();", "steady_clock :: now();",
              "clock_gettime(CLOCK_REALTIME, &t);", "time(nullptr);", "std::time( NULL );",
              "using Clock = std::chrono::steady_clock;",
              "high_resolution_clock::now();", "gettimeofday(&t, nullptr);")
    RANDOMS = ("std::random_device seed;", "int x = rand();", "std::rand ();", "srand(1);",
               "getrandom(p, 8, 0);")

    def test_clocks_and_randomness(self):
        for rule, lines in (("clock", self.CLOCKS), ("random", self.RANDOMS)):
            for line in lines:
                for room in ("forecast", "policy", "block", "extent", "nbd", "volume", "backtest"):
                    with self.subTest(line=line, room=room):
                        self.finds(f"src/{room}/a.cc", f"void f() {{\n  {line}\n}}\n", 2, rule)
                self.finds("sim/a.cc", line + "\n", 1, rule)
                for room in ("base", "io", "agent", "app"):
                    self.accepts(f"src/{room}/a.cc", line + "\n")

    def test_look_alikes(self):
        self.accepts("src/volume/a.cc", "// steady_clock::now() is not used here.\nauto a = rng.rand(3);\n"
                     'auto b = brand(2);\nauto c = downtime(0);\nauto d = op.time(0);\nauto e = "rand()";\n')

    def test_reinterpret_cast(self):
        text = "auto* x = reinterpret_cast<char*>(y);\n"
        for path in ("src/block/a.cc", "src/extent/a.cc", "src/nbd/a.cc", "src/volume/a.cc", "sim/a.cc"):
            self.finds(path, text, 1, "reinterpret")
        self.finds("src/base/codec.h", header(text), 2, "reinterpret")
        self.accepts("src/io/a.cc", text)
        self.accepts("src/volume/a.cc", "// reinterpret_cast would be wrong here.\nint x;\n")

    def test_digit_separators_do_not_open_a_character(self):
        self.finds("src/volume/a.cc", "int a = 1'000;\nint b = rand();\nint c = 2'000;\n", 2, "random")


class Unfinished(TidyCase):
    def test_words(self):
        for word in (UNFINISHED, "FIX" "ME", "X" "XX"):
            for path in ("src/base/a.cc", "sim/a.cc", "tests/a.py", "tools/run", "tests/CMakeLists.txt"):
                self.finds(path, f"#!/bin/sh\n# {word}: later\n", 2, "unfinished")
        self.accepts("src/base/a.cc", '// mkdtemp("a.XXXXXX")\n')


class Sizes(TidyCase):
    def test_file_length(self):
        self.accepts("src/base/a.cc", "int x;\n" * 600)
        self.finds("src/base/a.cc", "int x;\n" * 601, 601, "size")
        self.finds("tools/a.py", "x = 1\n" * 601, 601, "size")

    def test_header_length(self):
        self.accepts("src/base/a.h", header(*["int x;"] * 199))
        self.finds("src/base/a.h", header(*["int x;"] * 200), 201, "size")
        self.accepts("src/base/a.h", header("// @generated by the table maker", *["int x;"] * 300))

    def test_columns(self):
        self.accepts("src/base/a.cc", "//" + "é" * 108 + "\n")
        self.finds("src/base/a.cc", "\n//" + "x" * 109 + "\n", 2, "size")

    HEADS = (
        "int count()", "void Volume::write(std::span<const std::byte> data, Op& op) const noexcept",
        "TEST(Volume, KeepsWhatWasWritten)", "Volume::Volume(int a, int b) : a_(a), b_{b}, c_{{1, 2}}",
        "template <typename T = int>\n  requires std::integral<T>\nT sum(std::vector<T> of, T first = T{})",
        "auto begin() -> std::vector<int>::iterator", "bool operator==(const Volume& other) const",
        "struct stat look_up(const char* name)", "enum Code first(int x)",
        "Volume& operator=(Volume&& other) noexcept",
        "auto run = [](int x)", "static auto run = [&]", "Lba operator()(Lba x)", "operator bool() const",
    )

    def test_function_length(self):
        for head in self.HEADS:
            with self.subTest(head=head):
                line = head.count("\n") + 1
                self.accepts("src/base/a.cc", function(100, head))
                self.finds("src/base/a.cc", function(101, head), line, "size")

    def test_method_in_class_in_namespaces(self):
        before = ("namespace a::b {\nnamespace {\nclass C final : public D<int()> {\n public:\n"
                  "  C() = default;\n")
        self.finds("src/base/a.cc", before + function(101) + "};\n}\n}\n", 6, "size")

    def test_second_function_and_after_values(self):
        before = ("const int kTable[] = {1, 2, 3};\nint a{3};\nint f() { return 1; }\n"
                  "enum class E { kA, kB };\n")
        self.finds("src/base/a.cc", before + function(101), 5, "size")

    def test_long_things_that_are_not_functions(self):
        lines = "\n".join(["  int x;"] * 150)
        for head in ("namespace foreshadow {", "namespace {", 'extern "C" {',
                     "class Volume : public Device {",
                     "struct alignas(64) Row {", "template <typename T>\nclass Box final {", "union Word {",
                     "inline namespace v1 {", "class [[nodiscard]] Task {"):
            with self.subTest(head=head):
                self.accepts("src/base/a.cc", f"{head}\n{lines}\n}};\n")
        values = ",\n".join(["  {1, 2}"] * 150)
        for head in ("constexpr std::array<Row, 150> kRows = {{", "const Row kRows[f(2)] = {{", "Row rows{{",
                     "enum class Code : uint8_t {{", "INSTANTIATE_TEST_SUITE_P(A, B, Values(Row{{"):
            with self.subTest(head=head):
                close = head.count("{") * "}" + ("))" if "(A" in head else "")
                self.accepts("src/base/a.cc", f"{head}\n{values}\n{close};\n")

    def test_braces_in_strings_comments_and_branches_do_not_confuse(self):
        text = ('const char* a = "{";  // {\nchar b = \'{\';\n#define OPEN {\nauto c = R"x({{{)x";\n'
                "#ifdef FAST\nvoid f() {\n#else\nvoid f(int x) {\n#endif\n}\n")
        self.accepts("src/base/a.cc", text)
        self.finds("src/base/a.cc", text + function(101), 11, "size")

    def test_what_cannot_be_followed_is_said(self):
        self.finds("src/base/a.cc", "int x;\nvoid f() {\n", 2, "size")

    def test_python_functions(self):
        text = "import os\n\n\ndef f():\n" + "    os.sync()\n" * 100
        self.accepts("tools/a.py", text)
        self.finds("tools/a.py", text + "    os.sync()\n", 4, "size")
        self.finds("tools/run", "#!/usr/bin/env python3\n" + text + "    os.sync()\n", 5, "size")
        self.finds("tools/a.py", "x = (\n", 1, "size")


class Headers(TidyCase):
    def test_pragma_once(self):
        self.finds("src/base/a.h", "int x();\n", 1, "header")
        self.finds("src/base/a.h", "#include <string>\n#pragma once\n", 1, "header")
        self.finds("sim/a.h", "// #pragma once\nint x();\n", 1, "header")
        self.accepts("tests/a.h", "// What this is.\n#pragma once\nint x();\n")

    def test_using_namespace(self):
        self.finds("src/base/a.h", header("using namespace std;"), 2, "header")
        self.finds("src/base/a.h", header("using  namespace std::chrono;"), 2, "header")
        self.accepts("src/base/a.cc", "using namespace std;\n")


class Names(TidyCase):
    def test_vague_files_and_folders(self):
        for word in ("util", "utils", "helper", "helpers", "manager", "managers", "misc"):
            for path in (f"src/base/{word}.h", f"src/base/string_{word}.h", f"tests/{word}/a.h",
                         f"tools/{word}.json"):
                with self.subTest(path=path):
                    at = f"tests/{word}" if path.startswith("tests") else path
                    self.assertEqual(self.found({path: header()}), [f"{at}:1: name"])
        self.accepts("src/base/utilization.h", header())


class Program(TidyCase):
    def run_main(self, text: str) -> tuple[int, str]:
        with tempfile.TemporaryDirectory() as root:
            os.makedirs(os.path.join(root, "src/base"))
            with open(os.path.join(root, "src/base/a.cc"), "w", encoding="utf-8") as file:
                file.write(text)
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                return tidy.main([root]), out.getvalue()

    def test_exit_status_and_message(self):
        self.assertEqual(self.run_main("int x;\n"), (0, "tidy: 0 findings\n"))
        status, out = self.run_main('#include "app/x.h"\n')
        self.assertEqual(status, 1)
        self.assertIn("src/base/a.cc:1: house: base (rank 0) includes app/x.h (rank 5, a higher rank), "
                      "expected only nothing", out)

    def test_an_empty_tree_is_not_a_clean_one(self):
        with tempfile.TemporaryDirectory() as root, contextlib.redirect_stdout(io.StringIO()):
            self.assertEqual(tidy.main([root]), 1)


if __name__ == "__main__":
    unittest.main()
