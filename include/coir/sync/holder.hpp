// coir/sync/holder.hpp: who has what was to be had: the op it was handed to, then the guard its fiber got.
//
//   class permit : private coir::priv::holder { ... ~permit() { if (linked()) of_->give_back(*this); } };
//
// The bottom layer of locks that several fibers hold at a time, for those who write another. What is lent out keeps
// a list of its holders: so the deadlock report names them, and those that outlive it have nothing to give back.
//
// Shape    40 bytes: a node and its list, the fiber, and the line where it asked. One that moves hangs last.
// Thread   one loop.
// Errors   none.
// Cost     a few stores to take, to move and to give back.
// See      coir/sync/semaphore.hpp, coir/sync/shared_mutex.hpp; lib/sync/NOTE.md
#pragma once

#include <coir/base/list.hpp>
#include <coir/base/place.hpp>
#include <coir/fiber/fiber_base.hpp>
#include <coir/fiber/fiber_home.hpp>

#include <cstddef>
#include <cstdint>
#include <string>

namespace coir::priv {

class holder : public list_node {
 public:
  std::uint64_t fiber() const noexcept { return fiber_; }
  place since() const noexcept { return since_; }
  // It hangs in `all` from now on, for that fiber.
  void hang(list<holder>& all, const fiber_base& who, place since) noexcept {
    fiber_ = who.id();
    since_ = since;
    all_ = &all;
    all.push_back(*this);
  }

 protected:
  holder() noexcept = default;
  holder(holder&& other) noexcept : list_node() { take_over(other); }
  holder& operator=(const holder&) = delete;
  ~holder() = default;
  // By one that has nothing.
  void take_over(holder& other) noexcept {
    if (!other.linked()) return;
    other.unlink();
    fiber_ = other.fiber_;
    since_ = other.since_;
    all_ = other.all_;
    all_->push_back(*this);
  }

 private:
  list<holder>* all_ = nullptr;
  std::uint64_t fiber_ = 0;
  place since_;
};

// Texts for the deadlock report and for errors. The fibers of `home` are asked for the name.
std::string text_of(const fiber_home& home, std::uint64_t fiber);
std::string text_of(place at);
void describe_holders(const fiber_home& home, const list<holder>& all, std::string& text);
// As wait_list::place_of() has it.
void describe_place(std::size_t behind, std::string& text);

}  // namespace coir::priv
