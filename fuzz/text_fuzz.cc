// Names, sizes and identities as people type them: a value that is written as it was read, or an error that
// names the text.
#include <string>
#include <string_view>

#include "base/names.h"
#include "base/size.h"
#include "base/uuid.h"
#include "fuzz/target.h"

using namespace foreshadow;
using fuzz::expect;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input in(data, size);
  const uint8_t which = in.u8();
  const std::string text = in.text(size);
  switch (which % 5) {
    case 0:
      if (const auto name = Name::parse(text, "volume name")) {
        expect(name->str() == text && text.size() <= 63, "a name is the text");
      }
      break;
    case 1:
      if (const auto bytes = parse_size(text)) {
        // format_size may round to one decimal; what it says is a size again.
        expect(parse_size(std::to_string(*bytes)) == *bytes, "a size in bytes is itself");
        expect(!format_size(*bytes).empty(), "a size can be said");
      }
      break;
    case 2:
      if (const auto uuid = Uuid::parse(text))
        expect(Uuid::parse(uuid->str()) == *uuid, "an identity returns");
      break;
    case 3: {
      const std::string shown = quoted(text);
      for (const char c : shown) expect(c >= 0x20 && c < 0x7f, "quoted text is printable");
      expect(shown.size() <= 4 * 64 + 5, "quoted text is short");
      break;
    }
    default: {
      fuzz::Input number(data + 1, size > 0 ? size - 1 : 0);
      const uint64_t bytes = number.u64();
      const auto back = parse_size(format_size(bytes));
      if (!back) break;  // rounded to one decimal, which may be no whole number of bytes
      const uint64_t error = *back > bytes ? *back - bytes : bytes - *back;
      expect(error <= bytes / 16, "a size that is said is nearly the size");
    }
  }
  return 0;
}
