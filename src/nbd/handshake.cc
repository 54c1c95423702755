#include "nbd/handshake.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "base/assert.h"
#include "base/codec.h"
#include "base/limits.h"
#include "base/names.h"

namespace foreshadow::nbd {
namespace {

void ack(Bytes& out, uint32_t option) {
  append_option_reply(out, option, kRepAck, {});
}

void refuse(Bytes& out, uint32_t option, uint32_t type, std::string_view text) {
  append_option_reply(out, option, type, std::as_bytes(std::span(text.data(), text.size())));
}

// Reply type for a payload that did not parse.
uint32_t refusal_of(const Error& error) {
  return error.code == Code::kLimit ? kRepErrTooBig : kRepErrInvalid;
}

std::string text_of(ByteView bytes) {
  WireReader r(bytes);
  return r.text(bytes.size());
}

// The protocol wants a power of two, at least 512 and not above the maximum payload.
uint32_t preferred_block(const block::DeviceInfo& info) {
  return std::bit_ceil(std::clamp(info.preferred_block, 512u, limits::kNbdAnnouncedBytes));
}

}  // namespace

const size_t Handshake::kMessageBytes = kOptionHeaderBytes + limits::kNbdOptionBytes;

void Handshake::start(Bytes& out) const {
  append_greeting(out, kFlagFixedNewstyle | kFlagNoZeroes);
}

size_t Handshake::feed(ByteView in, Bytes& out) {
  size_t taken = 0;
  if (state_ == State::kTalking && !flags_seen_ && in.size() >= kClientFlagsBytes) {
    on_client_flags(in.first(kClientFlagsBytes));
    taken = kClientFlagsBytes;
  }
  while (state_ == State::kTalking && flags_seen_) {
    const ByteView rest = in.subspan(taken);
    if (rest.size() < kOptionHeaderBytes) break;
    const auto header = decode_option_header(rest.first(kOptionHeaderBytes));
    // The limits are checked before waiting for the payload: a peer that announces 4 GiB is not worth another
    // byte.
    if (!header) {
      end(header.error().message);
    } else if (header->length > limits::kNbdOptionBytes) {
      end(fmt::format("option {} with {} bytes, at most {} are allowed", header->option, header->length,
                      limits::kNbdOptionBytes));
    } else if (options_ == limits::kNbdOptions) {
      end(fmt::format("more than {} options", limits::kNbdOptions));
    } else {
      if (rest.size() - kOptionHeaderBytes < header->length) break;
      options_++;
      taken += kOptionHeaderBytes + header->length;
      const size_t said = out.size();
      on_option(header->option, rest.subspan(kOptionHeaderBytes, header->length), out);
      if (state_ == State::kStartTls && taken < in.size()) {
        // Whoever put them there, they are not under TLS: neither ours to read, nor TLS's.
        out.resize(said);
        end("bytes behind STARTTLS");
      }
    }
  }
  return taken;
}

void Handshake::end(std::string reason) {
  state_ = State::kEnded;
  reason_ = std::move(reason);
}

void Handshake::on_client_flags(ByteView in) {
  const uint32_t flags = WireReader(in).u32();
  flags_seen_ = true;
  // A client without FIXED_NEWSTYLE is served all the same: it sends only EXPORT_NAME anyway.
  if ((flags & ~(kClientFixedNewstyle | kClientNoZeroes)) != 0) {
    end(fmt::format("unknown client flags {:#x}", flags));
    return;
  }
  zeroes_ = (flags & kClientNoZeroes) == 0;
  if (tls_ == Tls::kRequired && (flags & kClientFixedNewstyle) == 0)
    end("TLS is required, and this client cannot ask for it");
}

void Handshake::secured(ExportTable& exports) {
  ASSERT(state_ == State::kStartTls);
  exports_ = &exports;
  tls_ = Tls::kRunning;
  structured_ = false;
  context_export_.reset();
  last_info_.reset();
  state_ = State::kTalking;
}

// Before TLS, where it is required: nothing is told but that.
void Handshake::on_plain_option(uint32_t option, ByteView payload, Bytes& out) {
  if (option == kOptStartTls) return on_start_tls(payload, out);
  if (option == kOptAbort) return on_abort(out);
  if (option == kOptExportName) return end("EXPORT_NAME before TLS");
  refuse(out, option, kRepErrTlsReqd, "TLS is required: STARTTLS comes first");
}

void Handshake::on_start_tls(ByteView payload, Bytes& out) {
  if (!payload.empty()) return refuse(out, kOptStartTls, kRepErrInvalid, "STARTTLS takes no data");
  if (tls_ == Tls::kNone)
    return refuse(out, kOptStartTls, kRepErrPolicy, "TLS is not offered on this socket");
  if (tls_ == Tls::kRunning) return refuse(out, kOptStartTls, kRepErrInvalid, "TLS is up already");
  if (refusing_) return refuse(out, kOptStartTls, kRepErrShutdown, "the server is shutting down");
  ack(out, kOptStartTls);
  state_ = State::kStartTls;
}

void Handshake::on_abort(Bytes& out) {
  ack(out, kOptAbort);
  state_ = State::kEnded;
}

void Handshake::on_option(uint32_t option, ByteView payload, Bytes& out) {
  if (tls_ == Tls::kRequired) return on_plain_option(option, payload, out);
  if (refusing_ && option == kOptExportName) return end("EXPORT_NAME while the server shuts down");
  if (refusing_ && option != kOptAbort)
    return refuse(out, option, kRepErrShutdown, "the server is shutting down");
  // Any other option between INFO and GO frees us from repeating INFO's answer.
  if (option != kOptGo && option != kOptInfo) last_info_.reset();
  switch (option) {
    case kOptExportName:
      return on_export_name(payload, out);
    case kOptAbort:
      return on_abort(out);
    case kOptList:
      return on_list(payload, out);
    case kOptStartTls:
      return on_start_tls(payload, out);
    case kOptInfo:
    case kOptGo:
      return on_info(option, payload, out);
    case kOptStructuredReply:
      return on_structured_reply(payload, out);
    case kOptListMetaContext:
    case kOptSetMetaContext:
      return on_meta_context(option, payload, out);
    default:
      return refuse(out, option, kRepErrUnsup, fmt::format("option {} is not known here", option));
  }
}

void Handshake::on_export_name(ByteView payload, Bytes& out) {
  // This option has no way to say no, other than closing.
  const std::string name = resolve(text_of(payload));
  block::BlockDevice* device = exports_->find(name);
  if (device == nullptr) return end(fmt::format("no export {}", quoted(name)));
  const block::DeviceInfo info = device->info();
  append_export_name_reply(out, ExportInfo{info.size, transmission_flags(info)}, zeroes_);
  agree(device, name, info);
}

void Handshake::on_list(ByteView payload, Bytes& out) {
  if (!payload.empty()) return refuse(out, kOptList, kRepErrInvalid, "LIST takes no data");
  for (const std::string& name : exports_->names()) {
    append_option_reply(out, kOptList, kRepServer, encode_server(name));
  }
  ack(out, kOptList);
}

void Handshake::on_info(uint32_t option, ByteView payload, Bytes& out) {
  std::optional<Answered> before = std::exchange(last_info_, std::nullopt);
  auto request = decode_info_request(payload);
  if (!request) return refuse(out, option, refusal_of(request.error()), request.error().message);
  const std::string name = resolve(request->name);
  block::BlockDevice* device = exports_->find(name);
  if (device == nullptr) {
    return refuse(out, option, kRepErrUnknown, fmt::format("no export {}", quoted(request->name)));
  }
  // Only a GO repeats: a client that asks INFO again wants to see whether the device grew.
  const bool repeats = option == kOptGo && before && before->device == device && before->request == *request;
  const block::DeviceInfo info = repeats ? before->info : device->info();

  const auto answer = [&](ByteView bytes) { append_option_reply(out, option, kRepInfo, bytes); };
  answer(encode_info_export(ExportInfo{info.size, transmission_flags(info)}));
  if (request->wants(kInfoName)) answer(encode_info_text(kInfoName, name));
  if (request->wants(kInfoDescription) && !info.description.empty()) {
    answer(encode_info_text(kInfoDescription, std::string_view(info.description).substr(0, kStringBytes)));
  }
  if (request->wants(kInfoBlockSize)) {
    answer(encode_info_block_size(BlockSizeInfo{1, preferred_block(info), limits::kNbdAnnouncedBytes}));
  }
  ack(out, option);
  if (option == kOptGo) {
    agree(device, name, info);
  } else {
    last_info_ = Answered{std::move(*request), device, info};
  }
}

void Handshake::on_structured_reply(ByteView payload, Bytes& out) {
  if (!payload.empty())
    return refuse(out, kOptStructuredReply, kRepErrInvalid, "STRUCTURED_REPLY takes no data");
  structured_ = true;
  ack(out, kOptStructuredReply);
}

void Handshake::on_meta_context(uint32_t option, ByteView payload, Bytes& out) {
  const bool set = option == kOptSetMetaContext;
  // A SET replaces what was selected before, also when it fails.
  if (set) context_export_.reset();
  const auto request = decode_meta_request(payload);
  if (!request) return refuse(out, option, refusal_of(request.error()), request.error().message);
  if (!structured_)
    return refuse(out, option, kRepErrInvalid, "metadata contexts need STRUCTURED_REPLY first");
  const std::string name = resolve(request->name);
  if (exports_->find(name) == nullptr) {
    return refuse(out, option, kRepErrUnknown, fmt::format("no export {}", quoted(request->name)));
  }
  // No query means everything in a LIST and nothing in a SET; the wildcard counts in a LIST only. What is not
  // known is passed over without an error.
  bool selected = !set && request->queries.empty();
  for (const std::string& query : request->queries) {
    if (query.find(':') == std::string::npos) {
      return refuse(out, option, kRepErrInvalid,
                    fmt::format("metadata query {} has no namespace", quoted(query)));
    }
    if (query == kBaseAllocation || (!set && query == "base:")) selected = true;
  }
  if (selected) {
    append_option_reply(out, option, kRepMetaContext,
                        encode_meta_context(set ? kAllocationContext : 0, kBaseAllocation));
    if (set) context_export_ = name;
  }
  ack(out, option);
}

std::string Handshake::resolve(std::string_view name) const {
  if (!name.empty()) return std::string(name);
  std::vector<std::string> names = exports_->names();
  return names.size() == 1 ? std::move(names.front()) : std::string();
}

void Handshake::agree(block::BlockDevice* device, std::string name, const block::DeviceInfo& info) {
  agreement_.device = device;
  agreement_.size = info.size;
  agreement_.read_only = info.read_only;
  agreement_.structured = structured_;
  agreement_.block_status = structured_ && context_export_ == name;
  agreement_.name = std::move(name);
  state_ = State::kDone;
}

uint16_t Handshake::transmission_flags(const block::DeviceInfo& info) const {
  // CAN_MULTI_CONN holds because a device's flush covers what completed on any connection.
  uint16_t flags = kHasFlags | kSendFlush | kSendFua | kSendTrim | kSendWriteZeroes | kSendFastZero |
                   kCanMultiConn | kSendCache;
  if (info.read_only) flags |= kReadOnly;
  if (structured_) flags |= kSendDf;
  return flags;
}

}  // namespace foreshadow::nbd
