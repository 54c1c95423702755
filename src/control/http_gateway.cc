#include "control/http_gateway.h"

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <google/protobuf/util/json_util.h>
#include <google/protobuf/wrappers.pb.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/impl/codegen/proto_utils.h>
#include <microhttpd.h>
#include <netdb.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <future>
#include <string_view>
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

struct Answer {
  int http = 200;
  std::string body;
};

Answer error_answer(const grpc::Status& status) {
  const auto code = static_cast<size_t>(status.error_code());
  const CodeRow& row = kCodes[code < kCodes.size() ? code : size_t{grpc::StatusCode::UNKNOWN}];
  return {row.http,
          fmt::format("{{\"code\":\"{}\",\"message\":{}}}\n", row.name, json_string(status.error_message()))};
}

// "127.0.0.1:8080", "[::1]:8080" and "localhost" are; a name of somebody else's that leads here is not.
bool is_loopback_host(const std::string& host) {
  const bool has_port = host.find("]:") != std::string::npos ||
                        (host.find(':') == host.rfind(':') && host.find(':') != std::string::npos);
  const auto parsed = parse_listen_address(has_port ? host : host + ":80");
  return parsed && parsed->unix_path.empty();
}

// A request from its head to its answer.
struct Exchange {
  std::string body;
};

std::string header(MHD_Connection* connection, const char* name) {
  const char* value = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);
  return value == nullptr ? std::string() : value;
}

// What the head of a request tells, before any of its body is read.
grpc::Status check_head(MHD_Connection* connection, const std::string& method, const std::string& path) {
  if (!is_loopback_host(header(connection, "Host"))) {
    return {grpc::PERMISSION_DENIED, fmt::format("Host {}: expected a loopback address or localhost",
                                                 foreshadow::quoted(header(connection, "Host")))};
  }
  if (method != "POST") {
    return {grpc::NOT_FOUND, fmt::format("{} {}: expected POST /{}/METHOD", foreshadow::quoted(method),
                                         foreshadow::quoted(path), kService)};
  }
  const std::string type = header(connection, "Content-Type");
  if (type != kJson && type.rfind("application/json;", 0) != 0) {
    return {grpc::INVALID_ARGUMENT,
            fmt::format("Content-Type {}: expected application/json", foreshadow::quoted(type))};
  }
  return grpc::Status::OK;
}

grpc::Status too_large() {
  return {grpc::RESOURCE_EXHAUSTED,
          fmt::format("body: expected at most {} bytes", foreshadow::limits::kRpcMessageBytes)};
}

class Gateway final : public HttpGateway {
 public:
  explicit Gateway(std::shared_ptr<grpc::Channel> channel)
      : stub_(std::move(channel)),
        service_(pb::DescriptorPool::generated_pool()->FindServiceByName(kService)) {}
  ~Gateway() override { stop(); }

  Status listen(const ListenAddress& address);
  void stop() override {
    if (daemon_ != nullptr) MHD_stop_daemon(std::exchange(daemon_, nullptr));
  }
  const std::string& address() const override { return address_; }

 private:
  using Stub = grpc::TemplatedGenericStub<pb::Message, pb::Message>;
  static MHD_Result on_request(void* self, MHD_Connection* connection, const char* url, const char* method,
                               const char* version, const char* data, size_t* data_size, void** exchange);
  static void on_completed(void* self, MHD_Connection* connection, void** exchange,
                           MHD_RequestTerminationCode code);
  static MHD_Result send(MHD_Connection* connection, const Answer& answer);
  grpc::Status call(const std::string& path, const std::string& body, std::string* json);

  Stub stub_;
  const pb::ServiceDescriptor* service_;
  MHD_Daemon* daemon_ = nullptr;
  std::string address_;
};

Status Gateway::listen(const ListenAddress& address) {
  const bool ipv6 = address.host.find(':') != std::string::npos;
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (::getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found) != 0) {
    return fail(Code::kInvalidArgument,
                fmt::format("http address {}: expected a numeric one", foreshadow::quoted(address.host)));
  }
  const unsigned flags = MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL |
                         (ipv6 ? MHD_USE_IPv6 : MHD_NO_FLAG);
  daemon_ =
      MHD_start_daemon(flags, address.port, nullptr, nullptr, &Gateway::on_request, this,  //
                       MHD_OPTION_SOCK_ADDR, found->ai_addr,                               //
                       MHD_OPTION_CONNECTION_LIMIT, static_cast<unsigned>(limits::kHttpConnections),
                       MHD_OPTION_CONNECTION_TIMEOUT, static_cast<unsigned>(limits::kHttpIdleTime.count()),
                       MHD_OPTION_CONNECTION_MEMORY_LIMIT, limits::kHttpHeadBytes,  //
                       MHD_OPTION_STRICT_FOR_CLIENT, 1,                             //
                       MHD_OPTION_NOTIFY_COMPLETED, &Gateway::on_completed, this, MHD_OPTION_END);
  ::freeaddrinfo(found);
  if (daemon_ == nullptr) return fail(Code::kBusy, fmt::format("cannot listen on http://{}", address.grpc()));
  ListenAddress bound = address;
  bound.port = MHD_get_daemon_info(daemon_, MHD_DAEMON_INFO_BIND_PORT)->port;
  address_ = "http://" + bound.grpc();
  log::info("control listens on {}", address_);
  return {};
}

// Called once for the head, then for each part of the body, then once more: that is when the call is made. An
// answer before that ends the connection, so that what follows is never taken for a request.
MHD_Result Gateway::on_request(void* self, MHD_Connection* connection, const char* url, const char* method,
                               const char* /*version*/, const char* data, size_t* data_size,
                               void** exchange) {
  if (*exchange == nullptr) {
    const grpc::Status status = check_head(connection, method, url);
    if (!status.ok()) return send(connection, error_answer(status));
    *exchange = new Exchange();
    return MHD_YES;
  }
  std::string& body = static_cast<Exchange*>(*exchange)->body;
  if (*data_size > 0) {
    // One byte too many is kept, as a mark.
    body.append(data, std::min(*data_size, foreshadow::limits::kRpcMessageBytes + 1 - body.size()));
    *data_size = 0;
    return MHD_YES;
  }
  Answer answer;
  const grpc::Status status = body.size() > foreshadow::limits::kRpcMessageBytes
                                  ? too_large()
                                  : static_cast<Gateway*>(self)->call(url, body, &answer.body);
  return send(connection, status.ok() ? answer : error_answer(status));
}

void Gateway::on_completed(void*, MHD_Connection*, void** exchange, MHD_RequestTerminationCode) {
  delete static_cast<Exchange*>(std::exchange(*exchange, nullptr));
}

MHD_Result Gateway::send(MHD_Connection* connection, const Answer& answer) {
  // The library copies the body, and never writes through the pointer.
  MHD_Response* response = MHD_create_response_from_buffer(
      answer.body.size(), const_cast<char*>(answer.body.data()), MHD_RESPMEM_MUST_COPY);
  if (response == nullptr) return MHD_NO;
  MHD_add_response_header(response, "Content-Type", kJson);
  MHD_add_response_header(response, "Connection", "close");
  const MHD_Result queued = MHD_queue_response(connection, static_cast<unsigned>(answer.http), response);
  MHD_destroy_response(response);
  return queued;
}

grpc::Status Gateway::call(const std::string& path, const std::string& body, std::string* json) {
  const std::string prefix = fmt::format("/{}/", kService);
  const pb::MethodDescriptor* method =
      path.rfind(prefix, 0) == 0 ? service_->FindMethodByName(path.substr(prefix.size())) : nullptr;
  if (method == nullptr) {
    return {grpc::NOT_FOUND, fmt::format("path {}: expected {}METHOD, a method of {}",
                                         foreshadow::quoted(path), prefix, kService)};
  }
  if (method->server_streaming() || method->client_streaming()) {
    return {grpc::UNIMPLEMENTED, fmt::format("{} streams; it is there over gRPC only", method->name())};
  }
  pb::MessageFactory* factory = pb::MessageFactory::generated_factory();
  const std::unique_ptr<pb::Message> in(factory->GetPrototype(method->input_type())->New());
  const std::unique_ptr<pb::Message> out(factory->GetPrototype(method->output_type())->New());
  const auto parsed = pb::util::JsonStringToMessage(body.empty() ? "{}" : body, in.get());
  if (!parsed.ok()) {
    return {grpc::INVALID_ARGUMENT, fmt::format("body: expected {} as JSON: {}", method->input_type()->name(),
                                                printable(std::string(parsed.message())))};
  }
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + limits::kHttpCallTime);
  std::promise<grpc::Status> done;
  stub_.UnaryCall(&context, path, grpc::StubOptions(), in.get(), out.get(),
                  [&done](grpc::Status status) { done.set_value(std::move(status)); });
  grpc::Status status = done.get_future().get();
  if (!status.ok()) return status;
  pb::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  const auto printed = pb::util::MessageToJsonString(*out, json, options);
  if (!printed.ok()) return {grpc::INTERNAL, std::string(printed.message())};
  *json += "\n";
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
