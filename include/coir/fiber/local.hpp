// coir/fiber/local.hpp: values that belong to a fiber, and that its children inherit.
//
//   inline coir::fiber_local<std::string> request_id;
//   request_id.set("42");   ...   log(request_id.get());       [tests/fiber/local_test.cpp]
//
// Shape    a key with static lifetime. A fiber has a value when it, or a fiber it descends from, set one
//          before the spawn; a child shares its parent's values until one of the two sets something.
// Thread   one loop.
// Errors   std::logic_error outside of a fiber; std::bad_alloc from set().
// Cost     get: a search among the values this fiber has set (a handful). set copies that list of pointers.
//          A spawn under a parent without values pays one test.
// See      coir/fiber/scheduler.hpp
#pragma once

#include <coir/fiber/fiber_base.hpp>

#include <memory>
#include <utility>
#include <vector>

namespace coir {

// The values of a fiber. Never changed once made: children share it.
class locals {
 public:
  struct value {
    const void* key;
    std::shared_ptr<void> what;
  };
  std::vector<value> values;
};

class fiber_local_access {
 public:
  static void* find(const void* key);
  static void set(const void* key, std::shared_ptr<void> what);
};

template <class T>
class fiber_local {
 public:
  fiber_local() noexcept = default;
  fiber_local(const fiber_local&) = delete;
  fiber_local& operator=(const fiber_local&) = delete;

  // Null when neither this fiber nor an ancestor has set it.
  T* get() const { return static_cast<T*>(fiber_local_access::find(this)); }
  // For this fiber, and for what it spawns from now on.
  template <class... From>
  void set(From&&... from) const {
    fiber_local_access::set(this, std::make_shared<T>(std::forward<From>(from)...));
  }
};

}  // namespace coir
