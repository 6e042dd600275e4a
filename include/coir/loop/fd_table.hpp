// coir/loop/fd_table.hpp: something for every descriptor number.
//
// Shape    pages of 128 entries, made when one of their numbers is first used.
// Order    by number.
// Thread   one.
// Errors   std::bad_alloc from operator[].
// Cost     find: two loads. A table never shrinks: the kernel gives out the lowest free numbers.
// See      coir/loop/backend.hpp, coir/loop/watcher.hpp
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <vector>

namespace coir {

// Entries do not move, so that a list in one of them may point at itself; numbers come in dense.
template <class Entry>
class fd_table {
 public:
  // Null for a number never used, and for those below zero.
  Entry* find(int fd) noexcept {
    const auto at = static_cast<unsigned>(fd);
    const std::size_t number = at / page_entries;
    if (number >= pages_.size() || pages_[number] == nullptr) [[unlikely]]
      return nullptr;
    return &(*pages_[number])[at % page_entries];
  }
  Entry& operator[](int fd) {  // may throw std::bad_alloc
    Entry* const known = find(fd);
    return known != nullptr ? *known : make(fd);
  }
  // Calls visit(fd, state) for every number that was ever used.
  template <class F>
  void for_each(F&& visit) {
    for (std::size_t number = 0; number < pages_.size(); ++number) {
      if (pages_[number] == nullptr) continue;
      for (std::size_t i = 0; i < page_entries; ++i) {
        visit(static_cast<int>(number * page_entries + i), (*pages_[number])[i]);
      }
    }
  }

 private:
  static constexpr unsigned page_entries = 128;
  using page = std::array<Entry, page_entries>;
  [[gnu::noinline]] Entry& make(int fd) {
    const std::size_t number = static_cast<unsigned>(fd) / page_entries;
    if (number >= pages_.size()) pages_.resize(number + 1);
    if (pages_[number] == nullptr) pages_[number] = std::make_unique<page>();
    return *find(fd);
  }
  std::vector<std::unique_ptr<page>> pages_;
};

}  // namespace coir
