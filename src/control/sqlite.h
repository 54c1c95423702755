#pragma once
// SQLite, as the store needs it: one connection, prepared statements, errors as Result. Only sqlite.cc knows
// the library.
#include <google/protobuf/message_lite.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/error.h"

struct sqlite3;
struct sqlite3_stmt;

namespace foreshadow::control::sqlite {

struct CloseDatabase {
  void operator()(sqlite3* database) const;
};
struct FinalizeStatement {
  void operator()(sqlite3_stmt* statement) const;
};

// Not thread-safe. Movable while no Query lives.
class Connection {
 public:
  // Opens or creates the file, mode 0600; SQLite reads it only when it is first asked something.
  static Result<Connection> open(const std::string& path);

  Status run_script(const std::string& sql);
  bool in_transaction() const;
  uint64_t last_row() const;  // of the last INSERT
  const std::string& path() const { return path_; }

 private:
  friend class Query;
  tl::unexpected<Error> failed(int rc) const;

  std::string path_;
  std::unique_ptr<sqlite3, CloseDatabase> database_;
  // By the address of their SQL literal. Declared after the database, so finalized before it is closed.
  std::unordered_map<const char*, std::unique_ptr<sqlite3_stmt, FinalizeStatement>> statements_;
};

// One use of a prepared statement; resets it afterwards. Binds by position, in order. An error of any step
// surfaces in next() or run().
class Query {
 public:
  Query(Connection& connection, const char* sql_literal);
  ~Query();
  Query(const Query&) = delete;
  Query& operator=(const Query&) = delete;

  Query& integer(uint64_t value);
  Query& text(std::string_view value);
  Query& message(const google::protobuf::MessageLite& value);

  Result<bool> next();  // true: a row to read; false: no more
  Status run();

  uint64_t integer_at(int column) const;
  std::string text_at(int column) const;
  // kCorrupt if the bytes are not the message they should be.
  Status message_at(int column, google::protobuf::MessageLite& into) const;

 private:
  Query& note(int rc);
  Connection& connection_;
  sqlite3_stmt* statement_ = nullptr;  // owned by the connection
  int bound_ = 0;
  int rc_ = 0;
};

}  // namespace foreshadow::control::sqlite
