#include <fmt/format.h>

#include "extent/recovery.h"
#include "io/buffer.h"

namespace foreshadow::extent {

io::Task<Result<Label>> read_label(io::File& file, std::string* blemish) {
  const io::Buffer copies(size_t{kLabelCopies} * kMetaBlock);
  if (file.size() < copies.size()) {
    // Its creation was cut short: nothing can have been stored in it.
    co_return fail(Code::kNotFound,
                   fmt::format("a segment of {} bytes is too short for a label", file.size()));
  }
  const int result = co_await io::read(file, 0, copies.span());
  if (result < 0) co_return fail_errno(result, "cannot read the label");
  auto first = decode_label(copies.span().first(kMetaBlock), Layout::label_offset(0));
  auto second = decode_label(copies.span().subspan(kMetaBlock), Layout::label_offset(1));
  if (!first && !second) {
    if (first.error().code == Code::kNotFound) co_return second;
    co_return first;
  }
  if (!first || !second || *first != *second) {
    *blemish = fmt::format("one of the two labels of segment {} is damaged",
                           (first ? first : second)->segment.str());
  }
  if (first) co_return first;
  co_return second;
}

}  // namespace foreshadow::extent
