#include "nbd/codec.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/codec.h"
#include "base/limits.h"
#include "base/names.h"

namespace foreshadow::nbd {
namespace {

// Makes room for `bytes` at the end of `out` and gives a writer over it.
WireWriter grow(Bytes& out, size_t bytes) {
  const size_t at = out.size();
  out.resize(at + bytes);
  return WireWriter(std::span(out).subspan(at));
}

ByteView view_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// A string of the protocol: `length` bytes, at most kStringBytes, without NUL.
Result<std::string> read_string(WireReader& in, uint32_t length, std::string_view what) {
  if (length > kStringBytes) {
    return fail(Code::kInvalidArgument,
                fmt::format("{} of {} bytes, at most {} are allowed", what, length, kStringBytes));
  }
  if (length > in.left()) {
    return fail(Code::kInvalidArgument,
                fmt::format("{} of {} bytes, but only {} follow", what, length, in.left()));
  }
  std::string text = in.text(length);
  if (text.find('\0') != std::string::npos) {
    return fail(Code::kInvalidArgument, fmt::format("{} {} holds a NUL byte", what, quoted(text)));
  }
  return text;
}

Status expect_end(const WireReader& in, std::string_view what) {
  if (!in.ok()) return fail(Code::kInvalidArgument, fmt::format("{} ends too early", what));
  if (in.left() > 0)
    return fail(Code::kInvalidArgument, fmt::format("{} has {} bytes too many", what, in.left()));
  return {};
}

// The end of a fixed message: its magic and its length are as they must be.
Status expect_fixed(const WireReader& in, uint64_t magic, uint64_t expected, std::string_view what) {
  TRY(expect_end(in, what));
  if (magic != expected) {
    return fail(Code::kInvalidArgument,
                fmt::format("{} has magic {:#x}, expected {:#x}", what, magic, expected));
  }
  return {};
}

}  // namespace

bool InfoRequest::wants(uint16_t item) const {
  return std::find(items.begin(), items.end(), item) != items.end();
}

void append_greeting(Bytes& out, uint16_t flags) {
  WireWriter w = grow(out, kGreetingBytes);
  w.u64(kServerMagic);
  w.u64(kOptionMagic);
  w.u16(flags);
}

Result<uint16_t> decode_greeting(ByteView in) {
  WireReader r(in);
  const uint64_t server = r.u64();
  const uint64_t option = r.u64();
  const uint16_t flags = r.u16();
  TRY(expect_fixed(r, server, kServerMagic, "greeting"));
  TRY(expect_fixed(r, option, kOptionMagic, "greeting"));
  return flags;
}

void append_client_flags(Bytes& out, uint32_t flags) {
  grow(out, kClientFlagsBytes).u32(flags);
}

void append_option(Bytes& out, uint32_t option, ByteView payload) {
  WireWriter w = grow(out, kOptionHeaderBytes + payload.size());
  w.u64(kOptionMagic);
  w.u32(option);
  w.u32(static_cast<uint32_t>(payload.size()));
  w.bytes(payload);
}

Result<OptionHeader> decode_option_header(ByteView in) {
  WireReader r(in);
  const uint64_t magic = r.u64();
  OptionHeader header;
  header.option = r.u32();
  header.length = r.u32();
  TRY(expect_fixed(r, magic, kOptionMagic, "option"));
  return header;
}

void append_option_reply(Bytes& out, uint32_t option, uint32_t type, ByteView payload) {
  WireWriter w = grow(out, kOptionReplyBytes + payload.size());
  w.u64(kOptionReplyMagic);
  w.u32(option);
  w.u32(type);
  w.u32(static_cast<uint32_t>(payload.size()));
  w.bytes(payload);
}

Result<OptionReplyHeader> decode_option_reply(ByteView in) {
  WireReader r(in);
  const uint64_t magic = r.u64();
  OptionReplyHeader header;
  header.option = r.u32();
  header.type = r.u32();
  header.length = r.u32();
  TRY(expect_fixed(r, magic, kOptionReplyMagic, "option reply"));
  return header;
}

Result<InfoRequest> decode_info_request(ByteView payload) {
  WireReader r(payload);
  InfoRequest request;
  const uint32_t name_bytes = r.u32();
  ASSIGN_OR_RETURN(request.name, read_string(r, name_bytes, "export name"));
  const uint16_t count = r.u16();
  // Two bytes each must follow, so a huge count cannot make us reserve more than the payload holds.
  if (!r.ok() || size_t{count} * 2 != r.left()) {
    return fail(Code::kInvalidArgument, fmt::format("{} information requests in {} bytes", count, r.left()));
  }
  request.items.reserve(count);
  for (uint16_t i = 0; i < count; i++) request.items.push_back(r.u16());
  TRY(expect_end(r, "information request"));
  return request;
}

Result<MetaRequest> decode_meta_request(ByteView payload) {
  WireReader r(payload);
  MetaRequest request;
  const uint32_t name_bytes = r.u32();
  ASSIGN_OR_RETURN(request.name, read_string(r, name_bytes, "export name"));
  const uint32_t count = r.u32();
  if (!r.ok()) return fail(Code::kInvalidArgument, "metadata context request ends too early");
  if (count > limits::kNbdMetaQueries) {
    return fail(Code::kLimit,
                fmt::format("{} metadata queries, at most {} are allowed", count, limits::kNbdMetaQueries));
  }
  for (uint32_t i = 0; i < count; i++) {
    const uint32_t length = r.u32();
    ASSIGN_OR_RETURN(std::string query, read_string(r, length, "metadata query"));
    request.queries.push_back(std::move(query));
  }
  TRY(expect_end(r, "metadata context request"));
  return request;
}

Bytes encode_info_request(const InfoRequest& request) {
  Bytes out;
  WireWriter w = grow(out, 4 + request.name.size() + 2 + 2 * request.items.size());
  w.u32(static_cast<uint32_t>(request.name.size()));
  w.text(request.name);
  w.u16(static_cast<uint16_t>(request.items.size()));
  for (const uint16_t item : request.items) w.u16(item);
  return out;
}

Bytes encode_meta_request(const MetaRequest& request) {
  Bytes out;
  WireWriter w = grow(out, 4 + request.name.size() + 4);
  w.u32(static_cast<uint32_t>(request.name.size()));
  w.text(request.name);
  w.u32(static_cast<uint32_t>(request.queries.size()));
  for (const std::string& query : request.queries) {
    WireWriter q = grow(out, 4 + query.size());
    q.u32(static_cast<uint32_t>(query.size()));
    q.text(query);
  }
  return out;
}

Bytes encode_info_export(const ExportInfo& info) {
  Bytes out;
  WireWriter w = grow(out, 12);
  w.u16(kInfoExport);
  w.u64(info.size);
  w.u16(info.flags);
  return out;
}

Result<ExportInfo> decode_info_export(ByteView payload) {
  WireReader r(payload);
  const uint16_t type = r.u16();
  ExportInfo info;
  info.size = r.u64();
  info.flags = r.u16();
  TRY(expect_fixed(r, type, kInfoExport, "export information"));
  return info;
}

Bytes encode_info_block_size(const BlockSizeInfo& info) {
  Bytes out;
  WireWriter w = grow(out, 14);
  w.u16(kInfoBlockSize);
  w.u32(info.minimum);
  w.u32(info.preferred);
  w.u32(info.maximum);
  return out;
}

Result<BlockSizeInfo> decode_info_block_size(ByteView payload) {
  WireReader r(payload);
  const uint16_t type = r.u16();
  BlockSizeInfo info;
  info.minimum = r.u32();
  info.preferred = r.u32();
  info.maximum = r.u32();
  TRY(expect_fixed(r, type, kInfoBlockSize, "block size information"));
  return info;
}

Bytes encode_info_text(uint16_t type, std::string_view text) {
  Bytes out;
  WireWriter w = grow(out, 2 + text.size());
  w.u16(type);
  w.text(text);
  return out;
}

Bytes encode_server(std::string_view name) {
  Bytes out;
  WireWriter w = grow(out, 4 + name.size());
  w.u32(static_cast<uint32_t>(name.size()));
  w.text(name);
  return out;
}

Result<std::string> decode_server(ByteView payload) {
  WireReader r(payload);
  const uint32_t length = r.u32();
  ASSIGN_OR_RETURN(std::string name, read_string(r, length, "export name"));
  if (!r.ok()) return fail(Code::kInvalidArgument, "export description ends too early");
  return name;  // what follows is text for people
}

Bytes encode_meta_context(uint32_t id, std::string_view context) {
  Bytes out;
  WireWriter w = grow(out, 4 + context.size());
  w.u32(id);
  w.text(context);
  return out;
}

void append_export_name_reply(Bytes& out, const ExportInfo& info, bool zeroes) {
  WireWriter w = grow(out, 10 + (zeroes ? kExportNamePadding : 0));
  w.u64(info.size);
  w.u16(info.flags);
  if (zeroes) w.zeros(kExportNamePadding);
}

size_t encode(const Command& command, std::span<std::byte> out) {
  WireWriter w(out);
  w.u32(kCommandMagic);
  w.u16(command.flags);
  w.u16(command.type);
  w.u64(command.cookie);
  w.u64(command.offset);
  w.u32(command.length);
  return w.used();
}

Result<Command> decode_command(ByteView in) {
  WireReader r(in);
  const uint32_t magic = r.u32();
  Command command;
  command.flags = r.u16();
  command.type = r.u16();
  command.cookie = r.u64();
  command.offset = r.u64();
  command.length = r.u32();
  TRY(expect_fixed(r, magic, kCommandMagic, "command"));
  return command;
}

size_t encode(const SimpleReply& reply, std::span<std::byte> out) {
  WireWriter w(out);
  w.u32(kSimpleReplyMagic);
  w.u32(reply.error);
  w.u64(reply.cookie);
  return w.used();
}

Result<SimpleReply> decode_simple_reply(ByteView in) {
  WireReader r(in);
  const uint32_t magic = r.u32();
  SimpleReply reply;
  reply.error = r.u32();
  reply.cookie = r.u64();
  TRY(expect_fixed(r, magic, kSimpleReplyMagic, "simple reply"));
  return reply;
}

size_t encode(const Chunk& chunk, std::span<std::byte> out) {
  WireWriter w(out);
  w.u32(kChunkMagic);
  w.u16(chunk.flags);
  w.u16(chunk.type);
  w.u64(chunk.cookie);
  w.u32(chunk.length);
  return w.used();
}

Result<Chunk> decode_chunk(ByteView in) {
  WireReader r(in);
  const uint32_t magic = r.u32();
  Chunk chunk;
  chunk.flags = r.u16();
  chunk.type = r.u16();
  chunk.cookie = r.u64();
  chunk.length = r.u32();
  TRY(expect_fixed(r, magic, kChunkMagic, "structured reply"));
  return chunk;
}

size_t encode_offset_data(uint64_t cookie, uint64_t offset, uint32_t bytes, std::span<std::byte> out,
                          bool last) {
  const uint16_t flags = last ? kChunkFlagDone : 0;
  const size_t used = encode(Chunk{flags, kChunkOffsetData, cookie, 8 + bytes}, out);
  WireWriter w(out.subspan(used));
  w.u64(offset);
  return used + w.used();
}

size_t encode_offset_hole(uint64_t cookie, uint64_t offset, uint32_t bytes, std::span<std::byte> out) {
  const size_t used = encode(Chunk{kChunkFlagDone, kChunkOffsetHole, cookie, 12}, out);
  WireWriter w(out.subspan(used));
  w.u64(offset);
  w.u32(bytes);
  return used + w.used();
}

size_t encode_error(uint64_t cookie, uint32_t error, std::string_view message, std::span<std::byte> out) {
  ASSERT(error != 0);
  ASSERT(message.size() <= kStringBytes);
  const auto length = static_cast<uint32_t>(6 + message.size());
  const size_t used = encode(Chunk{kChunkFlagDone, kChunkError, cookie, length}, out);
  WireWriter w(out.subspan(used));
  w.u32(error);
  w.u16(static_cast<uint16_t>(message.size()));
  w.bytes(view_of(message));
  return used + w.used();
}

size_t encode_status(uint32_t context, std::span<const StatusDescriptor> descriptors,
                     std::span<std::byte> out) {
  WireWriter w(out);
  w.u32(context);
  for (const StatusDescriptor& d : descriptors) {
    w.u32(d.length);
    w.u32(d.flags);
  }
  return w.used();
}

Result<ErrorChunk> decode_error(ByteView payload) {
  WireReader r(payload);
  ErrorChunk chunk;
  chunk.error = r.u32();
  const uint16_t length = r.u16();
  ASSIGN_OR_RETURN(chunk.message, read_string(r, length, "error message"));
  TRY(expect_end(r, "error chunk"));
  if (chunk.error == 0) return fail(Code::kInvalidArgument, "error chunk with error 0");
  return chunk;
}

Result<StatusChunk> decode_status(ByteView payload) {
  WireReader r(payload);
  StatusChunk chunk;
  chunk.context = r.u32();
  if (!r.ok() || r.left() == 0 || r.left() % 8 != 0) {
    return fail(Code::kInvalidArgument,
                fmt::format("block status of {} bytes, expected 4 + n * 8", payload.size()));
  }
  chunk.descriptors.reserve(r.left() / 8);
  while (r.left() > 0) {
    StatusDescriptor d;
    d.length = r.u32();
    d.flags = r.u32();
    if (d.length == 0) return fail(Code::kInvalidArgument, "block status with an extent of length 0");
    chunk.descriptors.push_back(d);
  }
  return chunk;
}

}  // namespace foreshadow::nbd
