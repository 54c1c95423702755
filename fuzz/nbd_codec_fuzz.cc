// Every decoder of an NBD message, over any bytes: what it takes is what its encoder makes, to the byte or to
// the value.
#include <algorithm>
#include <array>

#include "fuzz/target.h"
#include "nbd/codec.h"

using namespace foreshadow;
using namespace foreshadow::nbd;
using fuzz::expect;

namespace {

bool same(ByteView a, ByteView b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

template <typename Decode, typename Encode>
void bytes_return(ByteView in, Decode decode, Encode encode) {
  if (const auto value = decode(in)) expect(same(encode(*value), in), "encode(decode(bytes)) is the bytes");
}

template <typename Value>
void fixed_returns(ByteView in, Result<Value> (*decode)(ByteView)) {
  bytes_return(in, decode, [](const Value& value) {
    Bytes out(64);
    out.resize(encode(value, out));
    return out;
  });
}

void handshake_messages(uint8_t which, ByteView in) {
  switch (which % 7) {
    case 0:
      return bytes_return(in, decode_greeting, [](uint16_t flags) {
        Bytes out;
        append_greeting(out, flags);
        return out;
      });
    case 1:
      if (const auto header = decode_option_header(in)) {
        Bytes out;
        append_option(out, header->option, {});
        expect(same(ByteView(out).first(12), in.first(12)), "an option's header returns");
      }
      return;
    case 2:
      if (const auto header = decode_option_reply(in)) {
        Bytes out;
        append_option_reply(out, header->option, header->type, {});
        expect(same(ByteView(out).first(16), in.first(16)), "an option reply's header returns");
      }
      return;
    case 3:
      return bytes_return(in, decode_info_request, encode_info_request);
    case 4:
      return bytes_return(in, decode_meta_request, encode_meta_request);
    case 5:
      return bytes_return(in, decode_info_export, encode_info_export);
    default:
      return bytes_return(in, decode_info_block_size, encode_info_block_size);
  }
}

void error_chunk(ByteView in) {
  const auto error = decode_error(in);
  if (!error) return;
  Bytes out(kChunkBytes + 6 + error->message.size());
  const size_t bytes = encode_error(1, error->error, error->message, out);
  const auto again = decode_error(ByteView(out).subspan(kChunkBytes, bytes - kChunkBytes));
  expect(again && *again == *error, "an error chunk returns");
}

void status_chunk(ByteView in) {
  const auto status = decode_status(in);
  if (!status) return;
  Bytes out(status_bytes(status->descriptors.size()));
  out.resize(encode_status(status->context, status->descriptors, out));
  expect(same(out, in), "a status chunk returns");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const ByteView in = std::as_bytes(std::span(data + 1, size - 1));
  switch (data[0] % 14) {
    case 7:
      fixed_returns<Command>(in, decode_command);
      break;
    case 8:
      fixed_returns<SimpleReply>(in, decode_simple_reply);
      break;
    case 9:
      fixed_returns<Chunk>(in, decode_chunk);
      break;
    case 10:
      error_chunk(in);
      break;
    case 11:
      status_chunk(in);
      break;
    case 12:
      if (const auto name = decode_server(in)) {
        const auto again = decode_server(encode_server(*name));
        expect(again && *again == *name, "a server's name returns");
      }
      break;
    default:
      handshake_messages(data[0] % 14, in);
  }
  return 0;
}
