// Which of two segments is the head, by what their superblock areas say.
#include "extent/head.h"

#include <gtest/gtest.h>

namespace foreshadow::extent {
namespace {

Uuid uuid(int n) {
  Uuid out;
  out.bytes[15] = static_cast<std::byte>(n);
  return out;
}

HeadArea claim(int segment, uint64_t sequence) {
  HeadArea out;
  out.segment = uuid(segment);
  out.agreed = true;
  out.super.sequence = out.highest = sequence;
  out.good = {true, true, true, true};
  return out;
}
HeadArea mark(int segment, int head, uint64_t sequence) {
  HeadArea out = claim(segment, sequence);
  out.super = make_mark(out.super, uuid(head));
  return out;
}
HeadArea nothing(int segment) {
  HeadArea out;
  out.segment = uuid(segment);
  out.unfinished = true;
  out.trouble = Error{Code::kCorrupt, "empty"};
  return out;
}
HeadArea damaged(int segment) {
  HeadArea out = nothing(segment);
  out.unfinished = false;
  out.trouble = Error{Code::kCorrupt, "damaged"};
  return out;
}

struct Case {
  const char* what;
  std::vector<HeadArea> areas;
  int head;  // its index, or the negated code of the refusal
};

TEST(Head, IsTheHighestClaimUnlessItIsInDoubt) {
  const auto refused = [](Code code) { return -static_cast<int>(code); };
  const Case cases[] = {
      {"one segment", {claim(1, 5)}, 0},
      {"one that was never finished", {nothing(1)}, refused(Code::kCorrupt)},
      {"the next one has said nothing yet", {claim(1, 5), nothing(2)}, 0},
      {"a crash before the mark", {claim(1, 5), claim(2, 6)}, 1},
      {"after the mark", {mark(1, 2, 6), claim(2, 6)}, 1},
      {"long after it", {claim(2, 900), mark(1, 2, 6)}, 0},
      {"moved twice", {mark(1, 2, 6), mark(2, 3, 30), claim(3, 31)}, 2},
      {"a change that was given up", {claim(1, 9), mark(2, 1, 8)}, 0},
      {"the new one is away", {mark(1, 2, 6)}, refused(Code::kNotFound)},
      {"the new one is wiped", {mark(1, 2, 6), nothing(2)}, refused(Code::kCorrupt)},
      {"the new one is damaged", {mark(1, 2, 6), damaged(2)}, refused(Code::kCorrupt)},
      {"... before the mark", {claim(1, 5), damaged(2)}, refused(Code::kCorrupt)},
      {"the new one is an older state of itself", {mark(1, 2, 6), claim(2, 4)}, refused(Code::kCorrupt)},
      {"two of one sequence", {claim(1, 5), claim(2, 5)}, refused(Code::kCorrupt)},
  };
  for (const Case& c : cases) {
    const auto head = choose_head(c.areas);
    const int found = head ? static_cast<int>(*head) : -static_cast<int>(head.error().code);
    EXPECT_EQ(found, c.head) << c.what << ": " << (head ? std::string() : head.error().message);
  }
}

TEST(Head, AMarkIsWrittenWhereItIsMissingOrTorn) {
  EXPECT_FALSE(needs_mark(nothing(1)));
  EXPECT_FALSE(needs_mark(mark(1, 2, 6)));
  EXPECT_TRUE(needs_mark(claim(1, 5)));
  HeadArea torn = mark(1, 2, 6);
  torn.good[3] = false;
  EXPECT_TRUE(needs_mark(torn));
  HeadArea begun = nothing(1);  // one copy of a first claim
  begun.highest = 6;
  EXPECT_TRUE(needs_mark(begun));
}

}  // namespace
}  // namespace foreshadow::extent
