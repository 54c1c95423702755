#include "control/http_gateway.h"

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <google/protobuf/util/json_util.h>
#include <google/protobuf/wrappers.pb.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/impl/codegen/proto_utils.h>
#include <httplib.h>

#include <array>
#include <atomic>
#include <chrono>
#include <future>
#include <string_view>
#include <thread>
#include <utility>

#include "base/limits.h"
#include "base/log.h"
#include "base/names.h"
#include "control/control_limits.h"

namespace foreshadow::control {
namespace {

namespace pb = google::protobuf;

constexpr const char* kService = "foreshadow.v1.ControlService";
constexpr const char* kJson = "application/json";

struct CodeRow {
  const char* name;
  int http;
};
// By gRPC status, as google/rpc/code.proto assigns them.
constexpr std::array<CodeRow, 17> kCodes = {{{"OK", 200},
                                             {"CANCELLED", 499},
                                             {"UNKNOWN", 500},
                                             {"INVALID_ARGUMENT", 400},
                                             {"DEADLINE_EXCEEDED", 504},
                                             {"NOT_FOUND", 404},
                                             {"ALREADY_EXISTS", 409},
                                             {"PERMISSION_DENIED", 403},
                                             {"RESOURCE_EXHAUSTED", 429},
                                             {"FAILED_PRECONDITION", 400},
                                             {"ABORTED", 409},
                                             {"OUT_OF_RANGE", 400},
                                             {"UNIMPLEMENTED", 501},
                                             {"INTERNAL", 500},
                                             {"UNAVAILABLE", 503},
                                             {"DATA_LOSS", 500},
                                             {"UNAUTHENTICATED", 401}}};

// `text` is UTF-8.
std::string json_string(const std::string& text) {
  pb::StringValue value;
  value.set_value(text);
  std::string out;
  const auto printed = pb::util::MessageToJsonString(value, &out);
  return printed.ok() ? out : "\"\"";
}

// What the JSON parser says quotes the body as it came.
std::string printable(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) >= 0x7f) c = '?';
  }
  return text;
}

void answer_error(httplib::Response& response, const grpc::Status& status) {
  const auto code = static_cast<size_t>(status.error_code());
  const CodeRow& row = kCodes[code < kCodes.size() ? code : size_t{grpc::StatusCode::UNKNOWN}];
  response.status = row.http;
  response.set_content(
      fmt::format("{{\"code\":\"{}\",\"message\":{}}}\n", row.name, json_string(status.error_message())),
      kJson);
}

// "127.0.0.1:8080", "[::1]:8080" and "localhost" are; a name of somebody else's that leads here is not.
bool is_loopback_host(const std::string& host) {
  const bool has_port = host.find("]:") != std::string::npos ||
                        (host.find(':') == host.rfind(':') && host.find(':') != std::string::npos);
  const auto parsed = parse_listen_address(has_port ? host : host + ":80");
  return parsed && parsed->unix_path.empty();
}

grpc::Status refuse_foreigner(const httplib::Request& request) {
  if (!is_loopback_host(request.get_header_value("Host"))) {
    return {grpc::PERMISSION_DENIED, fmt::format("Host {}: expected a loopback address or localhost",
                                                 foreshadow::quoted(request.get_header_value("Host")))};
  }
  const std::string type = request.get_header_value("Content-Type");
  if (type != kJson && type.rfind("application/json;", 0) != 0) {
    return {grpc::INVALID_ARGUMENT,
            fmt::format("Content-Type {}: expected application/json", foreshadow::quoted(type))};
  }
  return grpc::Status::OK;
}

class Gateway final : public HttpGateway {
 public:
  explicit Gateway(std::shared_ptr<grpc::Channel> channel)
      : stub_(std::move(channel)),
        service_(pb::DescriptorPool::generated_pool()->FindServiceByName(kService)) {}
  ~Gateway() override { stop(); }

  Status listen(const ListenAddress& address);
  void stop() override {
    if (!thread_.joinable()) return;
    // Its stop() does nothing to a server whose thread has not come to accept yet.
    while (!server_.is_running() && !ended_) std::this_thread::yield();
    server_.stop();
    thread_.join();
  }
  const std::string& address() const override { return address_; }

 private:
  using Stub = grpc::TemplatedGenericStub<pb::Message, pb::Message>;
  grpc::Status call(const httplib::Request& request, std::string* json);

  Stub stub_;
  const pb::ServiceDescriptor* service_;
  httplib::Server server_;
  std::thread thread_;
  std::atomic<bool> ended_ = false;
  std::string address_;
};

Status Gateway::listen(const ListenAddress& address) {
  server_.set_payload_max_length(foreshadow::limits::kRpcMessageBytes);
  server_.set_read_timeout(limits::kHttpReadTime);
  server_.set_keep_alive_timeout(limits::kHttpIdleTime.count());
  server_.new_task_queue = [] { return new httplib::ThreadPool(limits::kHttpThreads); };
  // The library's own options would let two control planes share the port without noticing.
  server_.set_socket_options([](int socket) {
    const int on = 1;
    ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  });
  server_.Post("/.*", [this](const httplib::Request& request, httplib::Response& response) {
    std::string json;
    grpc::Status status = refuse_foreigner(request);
    if (status.ok()) status = call(request, &json);
    if (!status.ok()) return answer_error(response, status);
    response.set_content(json + "\n", kJson);
  });
  server_.set_error_handler([](const httplib::Request& request, httplib::Response& response) {
    if (!response.body.empty()) return;
    const int status = response.status;
    answer_error(response, {status == 413 ? grpc::RESOURCE_EXHAUSTED : grpc::INVALID_ARGUMENT,
                            fmt::format("{} {}: expected POST /{}/METHOD with a body of at most {} bytes",
                                        foreshadow::quoted(request.method), foreshadow::quoted(request.path),
                                        kService, foreshadow::limits::kRpcMessageBytes)});
    response.status = status;
  });
  const int port = address.port == 0                                  ? server_.bind_to_any_port(address.host)
                   : server_.bind_to_port(address.host, address.port) ? address.port
                                                                      : -1;
  if (port <= 0) return fail(Code::kBusy, fmt::format("cannot listen on http://{}", address.grpc()));
  ListenAddress bound = address;
  bound.port = static_cast<uint16_t>(port);
  address_ = "http://" + bound.grpc();
  thread_ = std::thread([this] {
    if (!server_.listen_after_bind()) log::error("{} is served no more", address_);
    ended_ = true;
  });
  log::info("control listens on {}", address_);
  return {};
}

grpc::Status Gateway::call(const httplib::Request& request, std::string* json) {
  const std::string prefix = fmt::format("/{}/", kService);
  const pb::MethodDescriptor* method = request.path.rfind(prefix, 0) == 0
                                           ? service_->FindMethodByName(request.path.substr(prefix.size()))
                                           : nullptr;
  if (method == nullptr) {
    return {grpc::NOT_FOUND, fmt::format("path {}: expected {}METHOD, a method of {}",
                                         foreshadow::quoted(request.path), prefix, kService)};
  }
  if (method->server_streaming() || method->client_streaming()) {
    return {grpc::UNIMPLEMENTED, fmt::format("{} streams; it is there over gRPC only", method->name())};
  }
  pb::MessageFactory* factory = pb::MessageFactory::generated_factory();
  const std::unique_ptr<pb::Message> in(factory->GetPrototype(method->input_type())->New());
  const std::unique_ptr<pb::Message> out(factory->GetPrototype(method->output_type())->New());
  const auto parsed = pb::util::JsonStringToMessage(request.body.empty() ? "{}" : request.body, in.get());
  if (!parsed.ok()) {
    return {grpc::INVALID_ARGUMENT, fmt::format("body: expected {} as JSON: {}", method->input_type()->name(),
                                                printable(std::string(parsed.message())))};
  }
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + limits::kHttpCallTime);
  std::promise<grpc::Status> done;
  stub_.UnaryCall(&context, request.path, grpc::StubOptions(), in.get(), out.get(),
                  [&done](grpc::Status status) { done.set_value(std::move(status)); });
  grpc::Status status = done.get_future().get();
  if (!status.ok()) return status;
  pb::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  const auto printed = pb::util::MessageToJsonString(*out, json, options);
  if (!printed.ok()) return {grpc::INTERNAL, std::string(printed.message())};
  return grpc::Status::OK;
}

}  // namespace

Result<std::unique_ptr<HttpGateway>> HttpGateway::start(const ListenAddress& address,
                                                        std::shared_ptr<grpc::Channel> channel) {
  if (!address.unix_path.empty()) {
    return fail(Code::kInvalidArgument, fmt::format("http address {}: expected a loopback address and a port",
                                                    foreshadow::quoted(address.grpc())));
  }
  auto gateway = std::make_unique<Gateway>(std::move(channel));
  TRY(gateway->listen(address));
  return gateway;
}

}  // namespace foreshadow::control
