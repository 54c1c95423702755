#pragma once
// The API's messages as JSON, in the words of the product.
#include <string>

#include "app/json.h"
#include "foreshadow/v1/control.pb.h"

namespace foreshadow::app {

std::string word(v1::SegmentRole role);  // primary, shadow
// granted, warm, active, sealed, merging, merged, draining, folding
std::string word(v1::SegmentState state);
std::string word(v1::MergeMode merge);        // adopt, fold
std::string word(v1::JobKind kind);           // fold, drain, resize
std::string word(v1::RedirectMode redirect);  // allocating, all
std::string word(v1::SqueezeMode mode);       // off, lz4, zstd

Json to_json(const v1::Segment& segment);
Json to_json(const v1::Squeezed& squeezed);
Json to_json(const v1::Volume& volume);
Json to_json(const v1::Job& job);
Json to_json(const v1::ShrinkPlan& plan);
Json to_json(const v1::VolumeDetail& detail);  // the volume's fields, and `forecast` and `latest`
Json to_json(const v1::VolumeMetrics& metrics);
Json to_json(const v1::Forecast& forecast);
Json to_json(const v1::Decision& decision);
Json to_json(const v1::Explanation& explanation);
Json to_json(const v1::Pool& pool);
Json to_json(const v1::Event& event);
Json to_json(const v1::CheckReport& check);
Json to_json(const v1::Scrub& scrub);
Json to_json(const v1::StatusReport& status);

template <typename Messages>
Json to_json_array(const Messages& messages) {
  Json out = Json::array();
  for (const auto& message : messages) out.add(to_json(message));
  return out;
}

// The same for people; several lines, each with its line break.
std::string describe(const v1::VolumeDetail& detail);
std::string describe_squeezed(const v1::Volume& volume);  // one line, without its break
// How a volume behaves where space runs short.
std::string describe_wall(const v1::Volume& volume);
std::string describe(const v1::ShrinkPlan& plan);
std::string describe(const v1::CheckReport& check, const std::string& volume);
std::string describe(const v1::Explanation& explanation);
std::string describe(const v1::Scrub& scrub);  // without a line break
std::string describe_line(const v1::Event& event);

}  // namespace foreshadow::app
