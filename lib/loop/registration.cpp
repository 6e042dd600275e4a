#include <coir/loop/registration.hpp>

#include <coir/base/error.hpp>
#include <coir/loop/loop.hpp>

#include "watch_set.hpp"

namespace coir {

registration::registration(loop& of, registration_kind kind) : loop_(&of), kind_(kind) {
  of.keep(*this);
}

registration::~registration() {
  // Only where making it failed half-way.
  if (active()) loop_->let_go(*this);
}

loop& registration::on() const {
  if (!active()) throw_misuse("a registration was used that has ended: cancelled, replaced, or its loop is gone");
  return *loop_;
}

loop& registration::checked() const {
  loop& mine = on();
  mine.check_own_thread();
  return mine;
}

watch_set& registration::watches() const noexcept { return *loop_->watches_; }

void registration::cancel() noexcept {
  if (!active()) return;
  leave();
  loop_->let_go(*this);
  loop_ = nullptr;
  if (calls_ == 0) drop_all();
  release();
}

void registration::drop_all() noexcept {
  // What is destroyed may hold the last handle of this.
  ++references_;
  drop();
  data.reset();
  release();
}

}  // namespace coir
