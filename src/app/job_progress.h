#pragma once
// Work that takes as long as copying does: asked for, waited for, and shown meanwhile.
#include <chrono>
#include <future>
#include <optional>
#include <string>

#include "app/client.h"
#include "base/error.h"

namespace foreshadow::app {

// "folding segment 3  [#####.....]  42%  1.2GiB of 2.9GiB  310MiB/s  6s left". Speed and what is left follow
// from what was moved in `elapsed_s`, and are left out while that says nothing.
std::string job_line(const v1::Job& job, uint64_t moved_before, double elapsed_s);
// "folding segment 3, 42% of 2.9GiB".
std::string describe(const v1::Job& job);

// One line of standard error that is drawn anew each time; nothing where that is no terminal.
class JobBar {
 public:
  explicit JobBar(bool wanted);
  ~JobBar();
  JobBar(const JobBar&) = delete;
  void draw(const v1::Job& job);

 private:
  bool shown_;
  size_t width_ = 0;  // of what is drawn now
  v1::Job first_;     // of this job, what was seen first
  std::chrono::steady_clock::time_point began_;
};

// Calls, for as long as it takes, and shows meanwhile what the volume's agent is at.
template <typename Request, typename Response>
Result<Response> call_with_progress(Client& client, const std::string& volume, bool shows,
                                    grpc::Status (Client::Stub::*method)(grpc::ClientContext*, const Request&,
                                                                         Response*),
                                    const Request& request) {
  auto answer = std::async(std::launch::async,
                           [&] { return client.call(method, request, std::chrono::hours(30 * 24)); });
  JobBar bar(shows);
  v1::VolumeRequest named;
  named.set_name(volume);
  while (answer.wait_for(std::chrono::milliseconds(250)) != std::future_status::ready) {
    // What cannot be told now is told by the answer.
    const auto detail = client.call(&Client::Stub::GetVolume, named);
    if (detail && detail->volume().has_job()) bar.draw(detail->volume().job());
  }
  return answer.get();
}

}  // namespace foreshadow::app
