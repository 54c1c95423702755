#include "volume/squeeze_codec.h"

#include <fmt/format.h>
#include <lz4.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>

#include "base/assert.h"
#include "base/codec.h"
#include "base/crc32c.h"

namespace foreshadow::volume {
namespace {

using extent::SqueezeCodec;

constexpr int kZstdDefault = 3;
constexpr int kZstdMax = 19;  // beyond, the codec's memory is a multiple of what it saves

// The codecs take characters.
const char* chars(std::span<const std::byte> bytes) {
  return static_cast<const char*>(static_cast<const void*>(bytes.data()));
}
char* chars(std::span<std::byte> bytes) {
  return static_cast<char*>(static_cast<void*>(bytes.data()));
}

struct Header {
  uint32_t crc = 0;
  Lcn lcn;
  uint32_t length = 0;
  uint32_t codec = 0;
};

Header decode_header(std::span<const std::byte> blob) {
  DiskReader in(blob);
  Header out;
  out.crc = in.u32();
  out.lcn = Lcn(in.u32());
  out.length = in.u32();
  out.codec = in.u32();
  return out;
}

}  // namespace

Status check_level(const SqueezeLevel& how) {
  const int most = how.codec == SqueezeCodec::kZstd ? kZstdMax : 0;
  if (how.codec != SqueezeCodec::kZstd && how.codec != SqueezeCodec::kLz4) {
    return fail(Code::kInvalidArgument, fmt::format("codec {} is unknown", static_cast<int>(how.codec)));
  }
  if (how.level >= 0 && how.level <= most) return {};
  return fail(Code::kInvalidArgument, fmt::format("level {} is out of range: {} takes 0 to {}", how.level,
                                                  how.codec == SqueezeCodec::kZstd ? "zstd" : "lz4", most));
}

void BlobWriter::Free::operator()(ZSTD_CCtx_s* context) const {
  ZSTD_freeCCtx(context);
}

size_t BlobWriter::compress(std::span<const std::byte> from, const SqueezeLevel& how,
                            std::span<std::byte> into) {
  if (how.codec == SqueezeCodec::kLz4) {
    const int written = LZ4_compress_default(chars(from), chars(into), static_cast<int>(from.size()),
                                             static_cast<int>(into.size()));
    return static_cast<size_t>(std::max(written, 0));
  }
  if (context_ == nullptr) context_.reset(ZSTD_createCCtx());
  ASSERT(context_ != nullptr);
  const int level = how.level == 0 ? kZstdDefault : how.level;
  const size_t written =
      ZSTD_compressCCtx(context_.get(), into.data(), into.size(), from.data(), from.size(), level);
  return ZSTD_isError(written) != 0 ? 0 : written;
}

uint32_t BlobWriter::encode(Lcn lcn, std::span<const std::byte> cluster, const SqueezeLevel& how,
                            std::span<std::byte> out) {
  ASSERT(cluster.size() == geometry_.cluster() && out.size() == geometry_.cluster());
  const size_t sub_block = geometry_.sub_block();
  // Two samples, neither at the edge, where headers and trailers lie.
  const auto shrinks = [&](uint32_t index) {
    const auto sample = cluster.subspan(index * sub_block, sub_block);
    return compress(sample, how, out.first(sub_block - sub_block / 16)) > 0;
  };
  if (!shrinks(5) && !shrinks(11)) return 0;
  const size_t most = kBlobSlotsMax * sub_block - kBlobHeader;
  const size_t length = compress(cluster, how, out.subspan(kBlobHeader, most));
  if (length == 0) return 0;
  const size_t used = kBlobHeader + length;
  DiskWriter header(out);
  header.u32(0);
  header.u32(lcn.v);
  header.u32(static_cast<uint32_t>(length));
  header.u32(static_cast<uint32_t>(how.codec));
  DiskWriter(out).u32(crc32c(out.subspan(4, used - 4)));
  const auto slots = static_cast<uint32_t>(div_up(used, sub_block));
  std::memset(out.data() + used, 0, slots * sub_block - used);
  return slots;
}

void BlobReader::Free::operator()(ZSTD_DCtx_s* context) const {
  ZSTD_freeDCtx(context);
}

Status BlobReader::verify(Lcn lcn, extent::Pack pack, std::span<const std::byte> blob) {
  if (blob.size() <= kBlobHeader) return fail(Code::kCorrupt, "a blob shorter than its header");
  const Header header = decode_header(blob);
  if (header.lcn != lcn || header.codec != static_cast<uint32_t>(pack.codec())) {
    return fail(Code::kCorrupt, fmt::format("the blob there is of cluster {} and codec {}, expected codec {}",
                                            header.lcn.v, header.codec, static_cast<int>(pack.codec())));
  }
  if (header.length == 0 || header.length > blob.size() - kBlobHeader) {
    return fail(Code::kCorrupt, fmt::format("a blob of {} bytes in {}", header.length, blob.size()));
  }
  const uint32_t computed = crc32c(blob.subspan(4, kBlobHeader - 4 + header.length));
  if (computed == header.crc) return {};
  return fail(Code::kCorrupt,
              fmt::format("a blob's checksum is {:08x}, expected {:08x}", header.crc, computed));
}

Status BlobReader::decode(Lcn lcn, extent::Pack pack, std::span<const std::byte> blob,
                          std::span<std::byte> cluster) {
  ASSERT(cluster.size() == geometry_.cluster());
  TRY(verify(lcn, pack, blob));
  const auto data = blob.subspan(kBlobHeader, decode_header(blob).length);
  size_t got = 0;
  if (pack.codec() == SqueezeCodec::kLz4) {
    const int bytes = LZ4_decompress_safe(chars(data), chars(cluster), static_cast<int>(data.size()),
                                          static_cast<int>(cluster.size()));
    got = static_cast<size_t>(std::max(bytes, 0));
  } else {
    if (context_ == nullptr) context_.reset(ZSTD_createDCtx());
    ASSERT(context_ != nullptr);
    const size_t bytes =
        ZSTD_decompressDCtx(context_.get(), cluster.data(), cluster.size(), data.data(), data.size());
    got = ZSTD_isError(bytes) != 0 ? 0 : bytes;
  }
  if (got == cluster.size()) return {};
  return fail(Code::kCorrupt, fmt::format("a blob gives {} bytes, expected {}", got, cluster.size()));
}

}  // namespace foreshadow::volume
