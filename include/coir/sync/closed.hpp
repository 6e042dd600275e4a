// coir/sync/closed.hpp: what a sender gets that came too late.
//
//   try { co_await orders.send(o); } catch (const coir::closed&) { ... }    [tests/sync/channel_test.cpp]
//
// Shape    a std::system_error with std::errc::broken_pipe, so that as_result(op) has it without a throw.
// Thread   any.
// Errors   this is one.
// Cost     an exception's.
// See      coir/sync/channel.hpp
#pragma once

#include <system_error>

namespace coir {

class closed : public std::system_error {
 public:
  // `where` names what was closed, and what was wanted of it.
  explicit closed(const char* where);
};

namespace priv {

[[noreturn, gnu::cold]] void throw_closed(const char* where);

}  // namespace priv

}  // namespace coir
