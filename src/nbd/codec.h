#pragma once
// Encoding and decoding of NBD messages: pure functions, no I/O, both directions (the server uses one half,
// tests, benchmarks and clients the other). Decoders take what a peer sent and give a Result; they never read
// past their input and compute nothing from a length before it was compared with what is there.
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "nbd/protocol.h"

namespace foreshadow::nbd {

using Bytes = std::vector<std::byte>;
using ByteView = std::span<const std::byte>;

// --- handshake
// ------------------------------------------------------------------------------------------------

struct OptionHeader {
  uint32_t option = 0;
  uint32_t length = 0;
  bool operator==(const OptionHeader&) const = default;
};

struct OptionReplyHeader {
  uint32_t option = 0;
  uint32_t type = 0;
  uint32_t length = 0;
  bool operator==(const OptionReplyHeader&) const = default;
};

// Payload of OPT_INFO and OPT_GO.
struct InfoRequest {
  std::string name;
  std::vector<uint16_t> items;
  bool wants(uint16_t item) const;
  bool operator==(const InfoRequest&) const = default;
};

// Payload of OPT_LIST_META_CONTEXT and OPT_SET_META_CONTEXT.
struct MetaRequest {
  std::string name;
  std::vector<std::string> queries;
  bool operator==(const MetaRequest&) const = default;
};

struct ExportInfo {
  uint64_t size = 0;
  uint16_t flags = 0;
  bool operator==(const ExportInfo&) const = default;
};

struct BlockSizeInfo {
  uint32_t minimum = 1;
  uint32_t preferred = 4096;
  uint32_t maximum = 0;
  bool operator==(const BlockSizeInfo&) const = default;
};

// "NBDMAGIC", "IHAVEOPT", handshake flags.
void append_greeting(Bytes& out, uint16_t flags);
Result<uint16_t> decode_greeting(ByteView in);
void append_client_flags(Bytes& out, uint32_t flags);
void append_option(Bytes& out, uint32_t option, ByteView payload);
Result<OptionHeader> decode_option_header(ByteView in);
void append_option_reply(Bytes& out, uint32_t option, uint32_t type, ByteView payload);
Result<OptionReplyHeader> decode_option_reply(ByteView in);

// kInvalidArgument for a payload that is malformed or has bytes left over, kLimit for one with too many
// queries.
Result<InfoRequest> decode_info_request(ByteView payload);
Result<MetaRequest> decode_meta_request(ByteView payload);
Bytes encode_info_request(const InfoRequest& request);
Bytes encode_meta_request(const MetaRequest& request);

// Payloads of option replies.
Bytes encode_info_export(const ExportInfo& info);
Result<ExportInfo> decode_info_export(ByteView payload);
Bytes encode_info_block_size(const BlockSizeInfo& info);
Result<BlockSizeInfo> decode_info_block_size(ByteView payload);
Bytes encode_info_text(uint16_t type, std::string_view text);  // kInfoName, kInfoDescription
Bytes encode_server(std::string_view name);                    // REP_SERVER
Result<std::string> decode_server(ByteView payload);
Bytes encode_meta_context(uint32_t id, std::string_view context);  // REP_META_CONTEXT
// The answer to OPT_EXPORT_NAME, with its 124 zeroes unless the client declined them.
void append_export_name_reply(Bytes& out, const ExportInfo& info, bool zeroes);

// --- transmission
// ---------------------------------------------------------------------------------------------

struct Command {
  uint16_t flags = 0;
  uint16_t type = 0;
  uint64_t cookie = 0;
  uint64_t offset = 0;
  uint32_t length = 0;
  bool operator==(const Command&) const = default;
};

struct SimpleReply {
  uint32_t error = 0;
  uint64_t cookie = 0;
  bool operator==(const SimpleReply&) const = default;
};

struct Chunk {
  uint16_t flags = 0;
  uint16_t type = 0;
  uint64_t cookie = 0;
  uint32_t length = 0;  // of the payload that follows
  bool operator==(const Chunk&) const = default;
};

struct ErrorChunk {
  uint32_t error = 0;
  std::string message;
  bool operator==(const ErrorChunk&) const = default;
};

struct StatusDescriptor {
  uint32_t length = 0;
  uint32_t flags = 0;
  bool operator==(const StatusDescriptor&) const = default;
};

struct StatusChunk {
  uint32_t context = 0;
  std::vector<StatusDescriptor> descriptors;
  bool operator==(const StatusChunk&) const = default;
};

// Encoders into memory of the caller give the bytes used; too little room is a defect of ours (asserted).
// Decoders of a fixed message want its bytes exactly; kInvalidArgument otherwise or for a wrong magic.
size_t encode(const Command& command, std::span<std::byte> out);
Result<Command> decode_command(ByteView in);
size_t encode(const SimpleReply& reply, std::span<std::byte> out);
Result<SimpleReply> decode_simple_reply(ByteView in);
size_t encode(const Chunk& chunk, std::span<std::byte> out);
Result<Chunk> decode_chunk(ByteView in);

// A whole chunk, header and payload, of which only the data of OFFSET_DATA (`bytes` of it) is sent
// separately. All but OFFSET_DATA with `last` false are the last of their reply.
size_t encode_offset_data(uint64_t cookie, uint64_t offset, uint32_t bytes, std::span<std::byte> out,
                          bool last = true);
size_t encode_offset_hole(uint64_t cookie, uint64_t offset, uint32_t bytes, std::span<std::byte> out);
size_t encode_error(uint64_t cookie, uint32_t error, std::string_view message, std::span<std::byte> out);
// A BLOCK_STATUS chunk's payload; `out` has room for status_bytes(descriptors.size()).
constexpr size_t status_bytes(size_t descriptors) {
  return 4 + 8 * descriptors;
}
size_t encode_status(uint32_t context, std::span<const StatusDescriptor> descriptors,
                     std::span<std::byte> out);

Result<ErrorChunk> decode_error(ByteView payload);
Result<StatusChunk> decode_status(ByteView payload);

}  // namespace foreshadow::nbd
