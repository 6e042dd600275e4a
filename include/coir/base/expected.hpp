// coir/base/expected.hpp: a value or an error code, for those who do not want exceptions.
//
//   coir::expected<std::size_t, std::error_code> got = co_await coir::as_result(peer.read_some(buffer));
//   if (!got) log(got.error().message());                        [tests/fiber/as_result_test.cpp]
//
// Shape    std::expected or, where the standard library has none, tl::expected: chosen when coir is
//          configured and recorded in base/configured.hpp, so that all users agree.
// Thread   as its value.
// Errors   value() throws when there is none; error() is undefined when there is a value.
// Cost     the value, the code, and a flag.
#pragma once

#include <coir/base/configured.hpp>

#if COIR_STD_EXPECTED
#include <expected>
#else
#include <tl/expected.hpp>
#endif

#include <system_error>

namespace coir {

#if COIR_STD_EXPECTED
template <class T, class E>
using expected = std::expected<T, E>;
template <class E>
using unexpected = std::unexpected<E>;
#else
template <class T, class E>
using expected = tl::expected<T, E>;
template <class E>
using unexpected = tl::unexpected<E>;
#endif

template <class T>
using result = expected<T, std::error_code>;

}  // namespace coir
