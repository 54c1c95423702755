// Adopting a device, growth and the wall's policy over real gRPC, with a scripted agent on the other side.
#include "control/service_fixture.h"

namespace foreshadow::control {
namespace {

using Stub = v1::ControlService::Stub;

TEST_F(ServiceTest, AdoptsADeviceAndTakesItsBaseForNoShadow) {
  agent_.connect(address_);
  Follower events(*stub_, "over");
  v1::AdoptDeviceRequest request;
  request.set_name("over");
  request.set_device("/srv/image.raw");
  request.set_primary_size(64 * kMiB);
  request.set_size(64 * kMiB);
  v1::Volume volume;
  const grpc::Status adopted = call(&Stub::AdoptDevice, request, &volume);
  ASSERT_TRUE(adopted.ok()) << adopted.error_message();
  EXPECT_EQ(volume.base_path(), "/srv/image.raw");
  EXPECT_EQ(events.wait_for("device.adopted").volume(), "over");
  v1::ListShadowsResponse shadows;
  ASSERT_TRUE(call(&Stub::ListShadows, v1::ListShadowsRequest(), &shadows).ok());
  for (const auto& row : shadows.shadows()) EXPECT_EQ(row.segment().role(), v1::SEGMENT_ROLE_SHADOW);
  EXPECT_EQ(call(&Stub::AdoptDevice, request, &volume).error_code(), grpc::ALREADY_EXISTS);
  for (const std::string& device :
       {std::string("relative"), std::string(), std::string("/a\nb"), "/" + std::string(1024, 'x')}) {
    request.set_name("other");
    request.set_device(device);
    EXPECT_EQ(call(&Stub::AdoptDevice, request, &volume).error_code(), grpc::INVALID_ARGUMENT) << device;
  }
  v1::DeleteVolumeRequest gone;
  gone.set_name("over");
  gone.set_force(true);
  v1::DeleteVolumeResponse kept;
  ASSERT_TRUE(call(&Stub::DeleteVolume, gone, &kept).ok());
  EXPECT_EQ(kept.kept(), "/srv/image.raw");
}

TEST_F(ServiceTest, GrowsAVolumeAndNeverShrinksIt) {
  agent_.connect(address_);
  const uint64_t size = create("data").size();
  v1::GrowVolumeRequest request;
  request.set_name("data");
  request.set_size(2 * size);
  v1::Volume volume;
  const grpc::Status grown = call(&Stub::GrowVolume, request, &volume);
  ASSERT_TRUE(grown.ok()) << grown.error_message();
  EXPECT_EQ(volume.size(), 2 * size);
  EXPECT_EQ(get("data").volume().size(), 2 * size);
  request.set_size(size);
  const grpc::Status smaller = call(&Stub::GrowVolume, request, &volume);
  EXPECT_EQ(smaller.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_NE(smaller.error_message().find("never shrinks"), std::string::npos) << smaller.error_message();
  for (const uint64_t bad : {2 * size + 1, uint64_t{1} << 60}) {
    request.set_size(bad);
    EXPECT_EQ(call(&Stub::GrowVolume, request, &volume).error_code(), grpc::INVALID_ARGUMENT) << bad;
  }
}

TEST_F(ServiceTest, SetsThePolicyAtTheWall) {
  agent_.connect(address_);
  create("data");
  v1::SetVolumeRequest request;
  request.set_name("data");
  v1::Volume volume;
  EXPECT_EQ(call(&Stub::SetVolume, request, &volume).error_code(), grpc::INVALID_ARGUMENT)
      << "nothing asked for";
  request.set_hold_timeout_ms(600'001);
  EXPECT_EQ(call(&Stub::SetVolume, request, &volume).error_code(), grpc::INVALID_ARGUMENT);
  request.set_hold_timeout_ms(600'000);
  request.mutable_backpressure()->set_percent(101);
  EXPECT_EQ(call(&Stub::SetVolume, request, &volume).error_code(), grpc::INVALID_ARGUMENT);
  request.mutable_backpressure()->set_percent(100);
  request.mutable_backpressure()->set_bytes(1 << 20);
  ASSERT_TRUE(call(&Stub::SetVolume, request, &volume).ok());
  EXPECT_EQ(volume.hold_timeout_ms(), 600'000u);
  EXPECT_EQ(volume.backpressure().bytes(), 1u << 20);
}

}  // namespace
}  // namespace foreshadow::control
