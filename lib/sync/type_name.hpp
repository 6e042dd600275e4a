// A type's name as a user would write it. Private to lib/sync.
#pragma once

#include <cxxabi.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <typeinfo>

namespace coir::priv {

inline std::string name_of(const std::type_info& type) {
  struct release {
    void operator()(char* name) const noexcept { std::free(name); }
  };
  int status = 0;
  const std::unique_ptr<char, release> readable(abi::__cxa_demangle(type.name(), nullptr, nullptr, &status));
  return status == 0 ? readable.get() : type.name();
}

}  // namespace coir::priv
