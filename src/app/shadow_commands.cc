// shadow list, grant, merge, squeeze, fold, drain.
#include <fmt/format.h>

#include "app/arguments.h"
#include "app/client.h"
#include "app/commands.h"
#include "app/describe.h"
#include "app/job_progress.h"
#include "app/output.h"
#include "base/size.h"

namespace foreshadow::app {
namespace {

Status list(const Invocation& invocation, const std::string& volume) {
  ASSIGN_OR_RETURN(const std::string state, invocation.state_dir());
  ASSIGN_OR_RETURN(Client client, Client::connect(state));
  v1::ListShadowsRequest request;
  request.set_volume(volume);
  ASSIGN_OR_RETURN(const v1::ListShadowsResponse shadows, client.call(&Client::Stub::ListShadows, request));
  Table table({"VOLUME", ">SEGMENT", "STATE", "POOL", ">CAPACITY", ">USED", ">SHARE"});
  Json json = Json::array();
  for (const v1::ListShadowsResponse::Row& row : shadows.shadows()) {
    const v1::Segment& segment = row.segment();
    table.add({row.volume(), fmt::format("{}", segment.id()), word(segment.state()),
               printable(segment.pool()), format_size(segment.capacity()), format_size(segment.used()),
               format_share(segment.used(), segment.capacity())});
    json.add(to_json(segment).set("volume", row.volume()));
  }
  invocation.print(json, table.str());
  return {};
}

// The volume after the change, and in a table the shadows of it.
void print_shadows(const Invocation& invocation, const v1::Volume& volume) {
  Table table({">SEGMENT", "STATE", ">CAPACITY", ">USED"});
  for (const v1::Segment& segment : volume.segments()) {
    if (segment.role() != v1::SEGMENT_ROLE_SHADOW) continue;
    table.add({fmt::format("{}", segment.id()), word(segment.state()), format_size(segment.capacity()),
               format_size(segment.used())});
  }
  invocation.print(to_json(volume), table.str());
}

Status grant(const Invocation& invocation, const v1::GrantShadowRequest& request) {
  ASSIGN_OR_RETURN(const std::string state, invocation.state_dir());
  ASSIGN_OR_RETURN(Client client, Client::connect(state));
  ASSIGN_OR_RETURN(const v1::Volume volume, client.call(&Client::Stub::GrantShadow, request));
  print_shadows(invocation, volume);
  return {};
}

Status merge(const Invocation& invocation, const v1::MergeShadowRequest& request) {
  ASSIGN_OR_RETURN(const std::string state, invocation.state_dir());
  ASSIGN_OR_RETURN(Client client, Client::connect(state));
  ASSIGN_OR_RETURN(const v1::Volume volume, client.call(&Client::Stub::MergeShadow, request));
  print_shadows(invocation, volume);
  return {};
}

Status squeeze(const Invocation& invocation, const v1::SqueezeShadowRequest& request) {
  ASSIGN_OR_RETURN(const std::string state, invocation.state_dir());
  ASSIGN_OR_RETURN(Client client, Client::connect(state));
  ASSIGN_OR_RETURN(const v1::Volume volume, client.call(&Client::Stub::SqueezeShadow, request));
  invocation.print(to_json(volume), describe_squeezed(volume) + "\n");
  return {};
}

using SegmentCall = grpc::Status (Client::Stub::*)(grpc::ClientContext*, const v1::SegmentRequest&,
                                                   v1::Volume*);

// The long ones: `done` is what has become of the segment.
Status release(const Invocation& invocation, SegmentCall method, const v1::SegmentRequest& request,
               const std::string& done) {
  ASSIGN_OR_RETURN(const std::string state, invocation.state_dir());
  ASSIGN_OR_RETURN(Client client, Client::connect(state));
  ASSIGN_OR_RETURN(const v1::Volume volume,
                   call_with_progress(client, request.volume(), !invocation.json, method, request));
  invocation.print(to_json(volume), fmt::format("{}: volume {} has {} segments, {} of capacity, {} used\n",
                                                done, volume.name(), volume.segments_size(),
                                                format_size(volume.capacity()), format_size(volume.used())));
  return {};
}

void add_release(CLI::App& shadow, Invocation& invocation, const std::string& name,
                 const std::string& description, const std::string& about_segment, bool required,
                 SegmentCall method, const std::string& done) {
  const auto request = std::make_shared<v1::SegmentRequest>();
  CLI::App* command = shadow.add_subcommand(name, description);
  command
      ->add_option_function<std::string>(
          "VOLUME", [request](const std::string& volume) { request->set_volume(volume); },
          "Name of the volume")
      ->required();
  CLI::Option* segment = command->add_option_function<uint32_t>(
      "SEGMENT", [request](uint32_t id) { request->set_segment_id(id); }, about_segment);
  if (required) segment->required();
  command->callback([&invocation, request, method, done] {
    invocation.run = [&, request, method, done] { return release(invocation, method, *request, done); };
  });
}

struct GrantArguments {
  std::string volume;
  std::string pool;
  uint64_t size = 0;
};
struct MergeArguments {
  std::string volume;
  uint32_t segment = 0;
};
struct SqueezeArguments {
  std::string volume;
  uint32_t segment = 0;
  v1::SqueezeMode codec = v1::SQUEEZE_MODE_UNSPECIFIED;
};

}  // namespace

void add_shadow_commands(CLI::App& app, Invocation& invocation) {
  CLI::App* shadow = app.add_subcommand("shadow", "Segments on their way into a volume");
  shadow->require_subcommand(1);

  const auto listed = std::make_shared<std::string>();
  CLI::App* listing = shadow->add_subcommand("list", "List shadows, of one volume or of all");
  listing->add_option("VOLUME", *listed, "Name of the volume");
  listing->callback(
      [&invocation, listed] { invocation.run = [&, listed] { return list(invocation, *listed); }; });

  const auto granted = std::make_shared<GrantArguments>();
  CLI::App* granting = shadow->add_subcommand("grant", "Grant a shadow by hand; returns when it is warm");
  granting->add_option("VOLUME", granted->volume, "Name of the volume")->required();
  add_parsed(*granting, "--size", &granted->size, parse_size,
             "Bytes taken from the pool; without it, what policy says")
      ->type_name("SIZE");
  granting->add_option("--pool", granted->pool, "Where it comes from; without it, the volume's own")
      ->type_name("POOL");
  granting->callback([&invocation, granted] {
    invocation.run = [&, granted] {
      v1::GrantShadowRequest request;
      request.set_volume(granted->volume);
      request.set_size(granted->size);
      request.set_pool(granted->pool);
      return grant(invocation, request);
    };
  });

  const auto merged = std::make_shared<MergeArguments>();
  CLI::App* merging = shadow->add_subcommand("merge", "Merge a shadow by hand; returns when it is merged");
  merging->add_option("VOLUME", merged->volume, "Name of the volume")->required();
  merging
      ->add_option("--segment", merged->segment, "Number of the segment; without it, the oldest not merged")
      ->type_name("N");
  merging->callback([&invocation, merged] {
    invocation.run = [&, merged] {
      v1::MergeShadowRequest request;
      request.set_volume(merged->volume);
      request.set_segment_id(merged->segment);
      return merge(invocation, request);
    };
  });

  const auto squeezed = std::make_shared<SqueezeArguments>();
  CLI::App* squeezing =
      shadow->add_subcommand("squeeze", "Compress a sealed or merged segment by hand, in the background");
  squeezing->add_option("VOLUME", squeezed->volume, "Name of the volume")->required();
  squeezing->add_option("SEGMENT", squeezed->segment, "Number of the segment; 0 is the primary")
      ->required()
      ->type_name("N");
  add_parsed(*squeezing, "--codec", &squeezed->codec, parse_codec, "Without it, the volume's own, or zstd")
      ->type_name("lz4|zstd");
  squeezing->callback([&invocation, squeezed] {
    invocation.run = [&, squeezed] {
      v1::SqueezeShadowRequest request;
      request.set_volume(squeezed->volume);
      request.set_segment_id(squeezed->segment);
      request.set_codec(squeezed->codec);
      return squeeze(invocation, request);
    };
  });
  add_release(*shadow, invocation, "fold",
              "Copy a shadow into the primary, which grows, and give it back; returns when that is done",
              "Number of the segment; without it, the oldest in use", false, &Client::Stub::FoldShadow,
              "folded");
  add_release(*shadow, invocation, "drain",
              "Empty a segment into the others and give it back; returns when that is done",
              "Number of the segment", true, &Client::Stub::DrainSegment, "drained");
}

}  // namespace foreshadow::app
