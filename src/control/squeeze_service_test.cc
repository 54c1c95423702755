// Squeezing, from a request or a merge to the agent's answer.
#include "control/service_fixture.h"

namespace foreshadow::control {
namespace {

using Stub = v1::ControlService::Stub;

struct SqueezeServiceTest : ServiceTest {
  grpc::Status squeeze(uint32_t segment, v1::SqueezeMode codec = v1::SQUEEZE_MODE_UNSPECIFIED) {
    v1::SqueezeShadowRequest request;
    request.set_volume("data");
    request.set_segment_id(segment);
    request.set_codec(codec);
    v1::Volume reply;
    return call(&Stub::SqueezeShadow, request, &reply);
  }
  grpc::Status create_with(v1::SqueezeMode mode) {
    v1::CreateVolumeRequest request = volume_request("data");
    request.set_squeeze(mode);
    v1::Volume reply;
    return call(&Stub::CreateVolume, request, &reply);
  }
};

TEST_F(SqueezeServiceTest, ByHandTheCodecIsTheOneAskedForElseTheVolumesElseZstd) {
  agent_.connect(address_);
  create("data");
  Follower events(*stub_, "data");
  (void)events.wait_for("shadow.warm");
  ASSERT_TRUE(squeeze(0).ok());
  EXPECT_EQ(agent_.wait_for_intents(3).squeeze_shadow().codec(), v1::SQUEEZE_MODE_ZSTD);
  const v1::Event event = events.wait_for("shadow.squeezed");
  EXPECT_NE(event.message().find("30 clusters into 10 containers"), std::string::npos) << event.message();
  ASSERT_TRUE(squeeze(0, v1::SQUEEZE_MODE_LZ4).ok());
  EXPECT_EQ(agent_.wait_for_intents(4).squeeze_shadow().codec(), v1::SQUEEZE_MODE_LZ4);
}

TEST_F(SqueezeServiceTest, WhatCannotBeIsRefusedByValue) {
  agent_.connect(address_);
  create("data");
  Follower events(*stub_, "data");
  (void)events.wait_for("shadow.warm");
  const grpc::Status off = squeeze(0, v1::SQUEEZE_MODE_OFF);
  EXPECT_EQ(off.error_code(), grpc::INVALID_ARGUMENT);
  const grpc::Status unknown = squeeze(0, static_cast<v1::SqueezeMode>(9));
  EXPECT_EQ(unknown.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_NE(unknown.error_message().find("codec 9"), std::string::npos) << unknown.error_message();
  const grpc::Status nobody = squeeze(7);
  EXPECT_EQ(nobody.error_code(), grpc::NOT_FOUND);
  const grpc::Status warm = squeeze(1);
  EXPECT_EQ(warm.error_code(), grpc::FAILED_PRECONDITION) << warm.error_message();
}

TEST_F(SqueezeServiceTest, AMergedShadowIsSqueezedWhereThePolicySaysSo) {
  agent_.connect(address_);
  EXPECT_EQ(create_with(static_cast<v1::SqueezeMode>(9)).error_code(), grpc::INVALID_ARGUMENT);
  ASSERT_TRUE(create_with(v1::SQUEEZE_MODE_LZ4).ok());
  Follower events(*stub_, "data");
  (void)events.wait_for("shadow.warm");
  v1::MergeShadowRequest merge;
  merge.set_volume("data");
  merge.set_segment_id(1);
  v1::Volume merged;
  ASSERT_TRUE(call(&Stub::MergeShadow, merge, &merged).ok());
  EXPECT_EQ(events.wait_for("squeeze.requested").segment_id(), 1u);
  EXPECT_EQ(events.wait_for("shadow.squeezed").segment_id(), 1u);
}

TEST_F(SqueezeServiceTest, NothingIsSqueezedWithoutAPolicy) {
  agent_.connect(address_);
  create("data");
  Follower events(*stub_, "data");
  (void)events.wait_for("shadow.warm");
  v1::MergeShadowRequest merge;
  merge.set_volume("data");
  merge.set_segment_id(1);
  v1::Volume merged;
  ASSERT_TRUE(call(&Stub::MergeShadow, merge, &merged).ok());
  ASSERT_TRUE(
      squeeze(0).ok());  // the next intent after the merge, and the grant that follows it, is this one
  EXPECT_EQ(events.wait_for("squeeze.requested").segment_id(), 0u);
}

}  // namespace
}  // namespace foreshadow::control
