// Parsing and printing, without a server.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "app/arguments.h"
#include "app/client.h"
#include "app/commands.h"
#include "app/describe.h"
#include "app/job_progress.h"
#include "app/json.h"
#include "app/man_page.h"
#include "app/output.h"
#include "app/replay.h"
#include "app/trace.h"
#include "volume/wall_policy.h"

namespace foreshadow::app {
namespace {

TEST(Json, WritesEveryKindOfValue) {
  Json json = Json::object()
                  .set("n", uint64_t{18446744073709551615u})
                  .set("i", -5)
                  .set("d", 0.5)
                  .set("nan", 0.0 / 0.0)
                  .set("b", true)
                  .set("s", "a\"b\\\n\x01")
                  .set("a", Json::array().add(1u).add(Json()))
                  .set("e", Json::object());
  EXPECT_EQ(json.line(),
            R"({"n":18446744073709551615,"i":-5,"d":0.5,"nan":null,"b":true,"s":"a\"b\\\n\u0001",)"
            R"("a":[1,null],"e":{}})");
  EXPECT_EQ(Json::object().set("a", Json::array().add(1u)).pretty(), "{\n  \"a\": [\n    1\n  ]\n}");
}

TEST(Table, AlignsColumns) {
  Table table({"NAME", ">SIZE", "STATE"});
  table.add({"db", "1TiB", "served"});
  table.add({"longer", "4KiB", ""});
  EXPECT_EQ(table.str(), "NAME    SIZE  STATE\ndb      1TiB  served\nlonger  4KiB\n");
}

TEST(Output, WritesDurationsAsPeopleDo) {
  const std::pair<double, const char*> cases[] = {
      {0, "0s"},    {0.00085, "850us"}, {0.0125, "12.5ms"}, {3.2, "3.2s"},     {59.99, "59.9s"},
      {60, "1min"}, {250, "4min 10s"},  {7500, "2h 5min"},  {273600, "3d 4h"}, {-1, "-"},
  };
  for (const auto& [seconds, text] : cases) EXPECT_EQ(format_duration(seconds), text);
  EXPECT_EQ(format_time_to_full(-1), "not within a year");
  EXPECT_EQ(format_share(1, 0), "-");
  EXPECT_EQ(format_share(1, 4), "25%");
  EXPECT_EQ(printable("a\x1b[31m\n"), "a?[31m?");
}

TEST(JobProgress, TellsHowFarHowFastAndHowLong) {
  v1::Job job;
  job.set_kind(v1::JOB_KIND_FOLD);
  job.set_segment_id(3);
  job.set_total(1000ull << 20);
  EXPECT_EQ(job_line(job, 0, 0), "folding segment 3  [........................]    0%  0B of 1000MiB");
  job.set_moved(500ull << 20);
  EXPECT_EQ(job_line(job, 100ull << 20, 4),
            "folding segment 3  [############............]   50%  500MiB of 1000MiB  100MiB/s  5s left");
  job.set_moved(2000ull << 20);  // first touches came while it was emptied
  EXPECT_EQ(job_line(job, 0, 0), "folding segment 3  [########################]  100%  2.0GiB of 2.0GiB");
  EXPECT_EQ(describe(job), "folding segment 3, 100% of 2.0GiB");
  EXPECT_EQ(job_line(v1::Job(), 0, 1), "working on segment 0  [........................]     -  0B of 0B");
}

// Every leaf of the parser has its section and its options there, as roff writes hyphens.
void expect_in_page(const CLI::App& command, const std::string& path, const std::string& page) {
  const auto escaped = [](std::string text) {
    for (size_t at = 0; (at = text.find('-', at)) != std::string::npos; at += 2) text.replace(at, 1, "\\-");
    return text;
  };
  const auto below = command.get_subcommands([](const CLI::App*) { return true; });
  if (below.empty()) {
    const size_t from = page.find("\n.SS " + escaped(path) + "\n");
    ASSERT_NE(from, std::string::npos) << path;
    const std::string section = page.substr(from, page.find("\n.S", from + 1) - from);
    EXPECT_NE(section.find(escaped(command.get_description())), std::string::npos) << path;
    for (const CLI::Option* option : command.get_options()) {
      if (option->check_lname("help")) continue;
      EXPECT_NE(section.find(escaped(option->get_description())), std::string::npos) << path;
    }
  }
  for (const CLI::App* one : below) expect_in_page(*one, path + " " + one->get_name(), page);
}

TEST(ManPage, DescribesEveryCommandAndOption) {
  Invocation invocation;
  const auto parser = make_parser(invocation);
  const std::string page = man_page(*parser, "1.2.3");
  EXPECT_EQ(page.find(".TH FORESHADOW 1 \"\" \"foreshadow 1.2.3\""), 0u);
  expect_in_page(*parser, "foreshadow", page);
  EXPECT_NE(page.find("FORESHADOW_STATE"), std::string::npos);
}

TEST(Arguments, ParseDurations) {
  const std::pair<const char*, uint32_t> good[] = {{"500ms", 500},   {"60s", 60000}, {"60", 60000},
                                                   {"2min", 120000}, {"2m", 120000}, {"1h", 3600000}};
  EXPECT_EQ(parse_rate("100MiB/s").value_or(0), 100 * kMiB);
  EXPECT_EQ(parse_rate("4096").value_or(0), 4096u);
  for (const char* bad : {"", "/s", "0/s", "fast", "1MiB/min"}) EXPECT_FALSE(parse_rate(bad)) << bad;
  for (const auto& [text, ms] : good) EXPECT_EQ(parse_duration_ms(text).value_or(0), ms) << text;
  for (const char* bad : {"", "s", "1.5s", "-1s", "5x", "99999999h", "99999999999s"}) {
    EXPECT_FALSE(parse_duration_ms(bad)) << bad;
  }
}

TEST(Arguments, ParseAddressesRedirectsAndSpeeds) {
  EXPECT_EQ(parse_tcp("127.0.0.1:10809")->port, 10809);
  EXPECT_EQ(parse_tcp("[::1]:0")->host, "::1");
  for (const char* bad : {"", ":1", "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", "x:y"})
    EXPECT_FALSE(parse_tcp(bad)) << bad;
  EXPECT_EQ(*parse_control("unix:/run/c.sock"), "unix:/run/c.sock");
  EXPECT_EQ(*parse_control("/run/./c.sock"), "unix:/run/c.sock");
  EXPECT_EQ(*parse_control("127.0.0.1:7420"), "127.0.0.1:7420");
  EXPECT_FALSE(parse_control("nowhere"));
  EXPECT_EQ(*parse_squeeze("off"), v1::SQUEEZE_MODE_OFF);
  EXPECT_EQ(*parse_squeeze("lz4"), v1::SQUEEZE_MODE_LZ4);
  EXPECT_EQ(*parse_codec("zstd"), v1::SQUEEZE_MODE_ZSTD);
  EXPECT_FALSE(parse_squeeze("gzip"));
  for (const char* bad : {"off", "gzip", ""}) EXPECT_FALSE(parse_codec(bad)) << bad;
  EXPECT_EQ(*parse_merge("adopt"), v1::MERGE_MODE_ADOPT);
  EXPECT_EQ(*parse_merge("fold"), v1::MERGE_MODE_FOLD);
  EXPECT_FALSE(parse_merge("both"));
  EXPECT_TRUE(*parse_switch("on"));
  EXPECT_FALSE(*parse_switch("off"));
  for (const char* bad : {"", "yes", "On"}) EXPECT_FALSE(parse_switch(bad)) << bad;
  EXPECT_EQ(*parse_redirect("all"), v1::REDIRECT_MODE_ALL);
  EXPECT_FALSE(parse_redirect("some"));
  EXPECT_EQ(*parse_speed("max"), 0.0);
  EXPECT_EQ(*parse_speed("2.5"), 2.5);
  for (const char* bad : {"0", "-1", "nan", "inf", "fast"}) EXPECT_FALSE(parse_speed(bad)) << bad;
}

TEST(Arguments, PathsAreMadeAbsoluteAndAreNotEmpty) {
  EXPECT_EQ(*parse_path("/srv//a/./b/../c/"), "/srv/a/c");
  EXPECT_EQ(*parse_path("/"), "/");
  EXPECT_EQ(*parse_path("x"), std::filesystem::current_path().string() + "/x");
  EXPECT_FALSE(parse_path(""));
  EXPECT_FALSE(parse_control("unix:"));
}

TEST(Arguments, BackpressureIsASizeAShareOrAWord) {
  const volume::WallPolicy usual;
  const struct {
    const char* text;
    uint64_t bytes, percent;
  } good[] = {{"off", 0, 0},
              {"0", 0, 0},
              {"auto", usual.band_bytes, usual.band_percent},
              {"5%", UINT64_MAX, 5},
              {"100%", UINT64_MAX, 100},
              {"64MiB", 64 * kMiB, 100}};
  for (const auto& row : good) {
    const auto parsed = parse_backpressure(row.text);
    ASSERT_TRUE(parsed) << row.text;
    EXPECT_EQ(parsed->bytes(), row.bytes) << row.text;
    EXPECT_EQ(parsed->percent(), row.percent) << row.text;
  }
  for (const char* bad : {"", "%", "101%", "-1%", "5 %", "much"})
    EXPECT_FALSE(parse_backpressure(bad)) << bad;
}

TEST(Trace, ParsesEveryOperation) {
  std::istringstream in(
      "time_us,op,offset,length\n# a "
      "comment\n\n0,W,0,4096\n10,R,4096,512\r\n10,T,0,65536\n11,Z,0,1\n12,F,0,0\n");
  const auto ops = parse_trace(in, "t.csv");
  ASSERT_TRUE(ops);
  ASSERT_EQ(ops->size(), 5u);
  EXPECT_EQ((*ops)[1].offset, 4096u);
  EXPECT_EQ((*ops)[1].line, 5u);
  EXPECT_EQ((*ops)[4].kind, 'F');
}

TEST(Trace, NamesFileAndLineOfWhatIsWrong) {
  for (const char* bad : {"x", "1,W,0", "1,W,0,4096,9", "1,X,0,4096", "a,W,0,4096", "1,W,-1,4096", "1,W,0,0",
                          "1,WW,0,1", "1,W,0,999999999999999999999"}) {
    std::istringstream in(std::string("0,F,0,0\n") + bad + "\n");
    const auto ops = parse_trace(in, "t.csv");
    ASSERT_FALSE(ops) << bad;
    EXPECT_EQ(ops.error().message.rfind("t.csv:2: ", 0), 0u) << ops.error().message;
  }
  std::istringstream back("5,F,0,0\n4,F,0,0\n");
  EXPECT_FALSE(parse_trace(back, "t.csv"));
  std::istringstream empty("time_us,op,offset,length\n");
  EXPECT_FALSE(parse_trace(empty, "t.csv"));
}

TEST(Percentile, IsTheNearestRank) {
  EXPECT_EQ(percentile({}, 0.5), 0u);
  EXPECT_EQ(percentile({7}, 0.99), 7u);
  EXPECT_EQ(percentile({1, 2, 3, 4}, 0.5), 2u);
  EXPECT_EQ(percentile({1, 2, 3, 4}, 1), 4u);
}

TEST(Describe, AVolumeInJsonHasLowerCaseWordsAndNumbers) {
  v1::VolumeDetail detail;
  v1::Volume& volume = *detail.mutable_volume();
  volume.set_name("db");
  volume.set_size(1ull << 40);
  volume.set_redirect(v1::REDIRECT_MODE_ALL);
  v1::Segment& segment = *volume.add_segments();
  segment.set_role(v1::SEGMENT_ROLE_SHADOW);
  segment.set_state(v1::SEGMENT_STATE_WARM);
  detail.mutable_forecast()->set_time_to_full_p50_s(12.5);
  const std::string json = to_json(detail).line();
  for (const char* part :
       {R"("name":"db")", R"("size":1099511627776)", R"("redirect":"all")", R"("role":"shadow")",
        R"("state":"warm")", R"("time_to_full_p50_s":12.5)", R"("read_only_reason":"")", R"("hold_us_max":0)",
        R"("first_redirect_to_warm":0)", R"("failed_writes":0)"}) {
    EXPECT_NE(json.find(part), std::string::npos) << part << " in " << json;
  }
  EXPECT_EQ(word(v1::SEGMENT_STATE_UNSPECIFIED), "unknown");
  EXPECT_NE(describe(detail).find("not served"), std::string::npos);
}

// Parses a command line; the words after "foreshadow".
int parse(const std::vector<std::string>& words, Invocation* invocation) {
  const auto parser = make_parser(*invocation);
  try {
    std::vector<std::string> reversed(words.rbegin(), words.rend());
    parser->parse(reversed);
    return 0;
  } catch (const CLI::ParseError& error) {
    return error.get_exit_code();
  }
}

TEST(CommandLine, TakesCommonOptionsBeforeAndBehindTheCommand) {
  for (const auto& words : std::vector<std::vector<std::string>>{
           {"--state", "/s/./d", "-o", "json", "volume", "show", "db"},
           {"volume", "show", "db", "--state", "/s/d/", "-o", "json"},
       }) {
    Invocation invocation;
    EXPECT_EQ(parse(words, &invocation), 0);
    EXPECT_EQ(invocation.state, "/s/d");
    EXPECT_TRUE(invocation.json);
    EXPECT_TRUE(invocation.run);
  }
}

TEST(CommandLine, TakesEveryCommand) {
  const std::vector<std::vector<std::string>> good = {
      {"up"},
      {"up", "--nbd-tcp", "127.0.0.1:0"},
      {"up", "--nbd-tcp", "0.0.0.0:10809", "--nbd-tls-cert", "c", "--nbd-tls-key", "k", "--nbd-tls-ca", "a",
       "--nbd-tls-psk", "p", "--nbd-tls-authz", "z", "--nbd-tls-unix"},
      {"control", "--listen", "127.0.0.1:7420"},
      {"agent", "--control", "unix:/c.sock"},
      {"pool", "add", "fast", "--dir", "/p", "--capacity", "10GiB"},
      {"pool", "list"},
      {"volume", "create", "db", "--size", "1TiB", "--primary", "256MiB", "--redirect", "all",
       "--hold-timeout", "5s"},
      {"volume", "list"},
      {"volume", "check", "db"},
      {"volume", "rm", "db"},
      {"shadow", "list"},
      {"shadow", "grant", "db", "--size", "64MiB", "--pool", "fast"},
      {"shadow", "merge", "db", "--segment", "2"},
      {"explain", "db"},
      {"events", "--follow", "--volume", "db", "--after", "7"},
      {"status"},
      {"replay", "t.csv", "--uri", "nbd://x", "--speed", "max"},
      {"version"},
  };
  for (const auto& words : good) {
    Invocation invocation;
    EXPECT_EQ(parse(words, &invocation), 0) << words[0];
    EXPECT_TRUE(invocation.run) << words[0];
  }
  const std::vector<std::vector<std::string>> bad = {
      {},
      {"fly"},
      {"volume"},
      {"volume", "create", "db"},
      {"volume", "create", "db", "--size", "big", "--primary", "256MiB"},
      {"volume", "create", "db", "--size", "1TiB", "--primary", "1MiB", "--redirect", "some"},
      {"agent"},
      {"status", "-o", "xml"},
      {"replay", "t.csv"},
  };
  for (const auto& words : bad) {
    Invocation invocation;
    EXPECT_NE(parse(words, &invocation), 0) << (words.empty() ? "nothing" : words[0]);
  }
}

TEST(CommandLine, PrintsTheVersionWhetherAskedByCommandOrByFlag) {
  const auto printed = [](std::vector<const char*> words) {
    words.insert(words.begin(), "foreshadow");
    testing::internal::CaptureStdout();
    EXPECT_EQ(run_program(static_cast<int>(words.size()), words.data()), 0);
    return testing::internal::GetCapturedStdout();
  };
  EXPECT_EQ(printed({"version"}).rfind("foreshadow ", 0), 0u);
  EXPECT_EQ(printed({"--version"}), printed({"version"}));
  EXPECT_EQ(printed({"--version", "-o", "json"}), printed({"version", "-o", "json"}));
  EXPECT_NE(printed({"version", "-o", "json"}), printed({"version"}));
}

TEST(CommandLine, SaysWhatToDoWhenNoServerRuns) {
  const auto client = Client::connect("/nonexistent/state");
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().message,
            "no server at /nonexistent/state/control.sock; start one with `foreshadow up --state "
            "/nonexistent/state`");
  Invocation nowhere;
  EXPECT_NE(nowhere.state_dir().error().message.find("FORESHADOW_STATE"), std::string::npos);
}

}  // namespace
}  // namespace foreshadow::app
