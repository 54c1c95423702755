// The one file that includes SQLite.
#include "control/sqlite.h"

#include <fmt/format.h>
#include <sqlite3.h>

#include <filesystem>

#include "base/names.h"

namespace foreshadow::control::sqlite {
namespace {

Code code_from_sqlite(int rc) {
  switch (rc & 0xff) {
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT:
      return Code::kCorrupt;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return Code::kBusy;
    case SQLITE_FULL:
      return Code::kNoSpace;
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
      return Code::kPermissionDenied;
    case SQLITE_CANTOPEN:
    case SQLITE_IOERR:
      return Code::kIo;
    case SQLITE_CONSTRAINT:
      return Code::kAlreadyExists;
    case SQLITE_NOMEM:
      return Code::kLimit;
    default:
      return Code::kInternal;
  }
}

}  // namespace

void CloseDatabase::operator()(sqlite3* database) const {
  sqlite3_close_v2(database);
}
void FinalizeStatement::operator()(sqlite3_stmt* statement) const {
  sqlite3_finalize(statement);
}

Result<Connection> Connection::open(const std::string& path) {
  Connection out;
  out.path_ = path;
  sqlite3* raw = nullptr;
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
  const int rc = sqlite3_open_v2(path.c_str(), &raw, flags, nullptr);
  out.database_.reset(raw);
  if (rc != SQLITE_OK) return out.failed(rc);
  // SQLite makes the file, still empty, as readable as the mask allows; its log files take their mode from
  // it.
  using std::filesystem::perms;
  std::error_code ec;
  std::filesystem::permissions(path, perms::owner_read | perms::owner_write, ec);
  if (ec) return fail_errno(ec.value(), fmt::format("store {}", foreshadow::quoted(path)));
  return out;
}

tl::unexpected<Error> Connection::failed(int rc) const {
  return fail(code_from_sqlite(rc),
              fmt::format("store {}: {} (SQLite {})", foreshadow::quoted(path_),
                          sqlite3_errmsg(database_.get()), sqlite3_extended_errcode(database_.get())));
}

Status Connection::run_script(const std::string& sql) {
  const int rc = sqlite3_exec(database_.get(), sql.c_str(), nullptr, nullptr, nullptr);
  if (rc != SQLITE_OK) return failed(rc);
  return {};
}

bool Connection::in_transaction() const {
  return sqlite3_get_autocommit(database_.get()) == 0;
}
uint64_t Connection::last_row() const {
  return static_cast<uint64_t>(sqlite3_last_insert_rowid(database_.get()));
}

Query::Query(Connection& connection, const char* sql_literal) : connection_(connection) {
  auto& cached = connection.statements_[sql_literal];
  if (!cached) {
    sqlite3_stmt* raw = nullptr;
    rc_ = sqlite3_prepare_v3(connection.database_.get(), sql_literal, -1, SQLITE_PREPARE_PERSISTENT, &raw,
                             nullptr);
    cached.reset(raw);
  }
  statement_ = cached.get();
}

Query::~Query() {
  if (statement_ == nullptr) return;
  sqlite3_reset(statement_);
  sqlite3_clear_bindings(statement_);
}

Query& Query::note(int rc) {
  if (rc_ == SQLITE_OK) rc_ = rc;
  return *this;
}

Query& Query::integer(uint64_t value) {
  return note(sqlite3_bind_int64(statement_, ++bound_, static_cast<int64_t>(value)));
}

Query& Query::text(std::string_view value) {
  // A null pointer would be a NULL, which is not an empty text.
  const char* bytes = value.data() == nullptr ? "" : value.data();
  return note(sqlite3_bind_text64(statement_, ++bound_, bytes, value.size(), SQLITE_TRANSIENT, SQLITE_UTF8));
}

Query& Query::message(const google::protobuf::MessageLite& value) {
  const std::string bytes = value.SerializeAsString();
  return note(sqlite3_bind_blob64(statement_, ++bound_, bytes.data(), bytes.size(), SQLITE_TRANSIENT));
}

Result<bool> Query::next() {
  if (rc_ != SQLITE_OK) return connection_.failed(rc_);
  const int rc = sqlite3_step(statement_);
  if (rc == SQLITE_ROW) return true;
  if (rc == SQLITE_DONE) return false;
  return connection_.failed(rc);
}

Status Query::run() {
  const Result<bool> row = next();
  if (!row) return tl::unexpected<Error>(row.error());
  return {};
}

uint64_t Query::integer_at(int column) const {
  return static_cast<uint64_t>(sqlite3_column_int64(statement_, column));
}

std::string Query::text_at(int column) const {
  const void* bytes = sqlite3_column_blob(statement_, column);
  const auto size = static_cast<size_t>(sqlite3_column_bytes(statement_, column));
  return bytes == nullptr ? std::string() : std::string(static_cast<const char*>(bytes), size);
}

Status Query::message_at(int column, google::protobuf::MessageLite& into) const {
  if (into.ParseFromString(text_at(column))) return {};
  return fail(Code::kCorrupt, fmt::format("store {}: a stored {} cannot be decoded",
                                          foreshadow::quoted(connection_.path_), into.GetTypeName()));
}

}  // namespace foreshadow::control::sqlite
