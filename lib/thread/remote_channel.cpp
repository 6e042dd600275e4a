#include <coir/thread/remote_channel.hpp>

#include <coir/base/error.hpp>
#include <coir/fiber/fiber_home.hpp>

#include <algorithm>

namespace coir::priv {

namespace {

constexpr std::ptrdiff_t batch_max = 64;

}  // namespace

// --- a request ---

channel_request::channel_request(mail& carries, channel_send& of, loop& on)
    : carries_(carries), op_(&of), home_(on.port()) {}

void channel_request::answer() noexcept {
  references_.fetch_add(1, std::memory_order_relaxed);
  // Its fiber waits, so its loop is there.
  if (!home_->push(reply_)) release();
}

void channel_request::reply::run() {
  if (to_.op_ != nullptr) to_.op_->answered();
}

// --- the sender ---

loop& channel_send::here() { return running_fiber().home().on(); }

void channel_send::begin() {
  if (was_sent()) throw_misuse("a remote send was awaited again after it had sent its value");
  if (asked_ != nullptr) std::exchange(asked_, nullptr)->release();
}

void channel_send::wait(channel_request& asked, waiter& told) {
  asked_ = &asked;
  told_ = &told;
  // What its own loop will do that loop knows of.
  if (loop& mine = here(); !to_->leads_to(mine)) hold_.emplace(mine);
}

bool channel_send::withdraw() noexcept {
  if (!asked_->settle(channel_request::state::withdrawn)) return false;
  asked_->op_ = nullptr;
  hold_.reset();
  return true;
}

void channel_send::answered() noexcept {
  hold_.reset();
  told_->done();
}

void channel_send::throw_not_had_back() {
  throw_misuse("a remote send was awaited again that does not have its value back");
}

void channel_send::throw_closed() { throw_error(EPIPE, "sending to a remote channel that is closed, or gone"); }

void channel_send::describe(std::string& text) const {
  if (asked_ != nullptr) text += hold_.has_value() ? " (the channel of another loop is full)" : " (the channel is full)";
}

// --- the channel ---

channel_queue::channel_queue(loop& on, std::size_t capacity) : mail_queue(on) {
  const auto places = static_cast<std::ptrdiff_t>(std::min(capacity, unbounded_mail));
  link().room().store(places, std::memory_order_relaxed);
  pass_on_room_in(std::clamp<std::ptrdiff_t>(places / 8, 1, batch_max));
}

channel_queue::~channel_queue() { link_closed(); }

void channel_queue::link_closed() noexcept {
  while (!requests_.empty()) pop_request().carries_.drop();
}

channel_request& channel_queue::pop_request() noexcept {
  --asking_;
  return requests_.pop();
}

void channel_queue::asked(mail& what) noexcept {
  channel_request* const request = what.request();
  // Before it was sent there was a place after all.
  if (request->now() == channel_request::state::accepted) return push(what);
  if (asking_ == sweep_at_) sweep();
  requests_.push(*request);
  ++asking_;
  accept_granted();
}

// room() is the number of free places less that of all who have asked, here or on their way. Of the free places the
// first belong to those who have asked: granted_ is the smaller of the two numbers. Only what happens here changes it.

void channel_queue::add_room(std::ptrdiff_t places) noexcept {
  const std::ptrdiff_t before = link().room().fetch_add(places, std::memory_order_acq_rel);
  if (before >= 0) return;
  granted_ += std::min(places, -before);
  accept_granted();
}

// One of those who have asked needs no place.
void channel_queue::forget() noexcept {
  if (link().room().fetch_add(1, std::memory_order_acq_rel) >= 0) --granted_;
}

void channel_queue::accept_granted() noexcept {
  while (granted_ != 0 && !requests_.empty()) {
    channel_request& first = pop_request();
    if (first.settle(channel_request::state::accepted)) {
      --granted_;
      push(first.carries_);
      first.answer();
    } else {
      forget();
      first.carries_.drop();
    }
  }
}

// From hand to hand, without a place.
mail* channel_queue::next_in_line() noexcept {
  while (!requests_.empty()) {
    channel_request& first = pop_request();
    forget();
    if (first.settle(channel_request::state::accepted)) {
      first.answer();
      return &first.carries_;
    }
    first.carries_.drop();
  }
  return nullptr;
}

// Those that were withdrawn: senders that try again and again must not fill the memory.
void channel_queue::sweep() noexcept {
  queue<channel_request, &channel_request::next_> left;
  const std::size_t count = asking_;
  for (std::size_t i = 0; i < count; ++i) {
    channel_request& each = pop_request();
    if (each.now() == channel_request::state::withdrawn) {
      forget();
      each.carries_.drop();
    } else {
      left.push(each);
      ++asking_;
    }
  }
  requests_ = left;
  sweep_at_ = std::max<std::size_t>(16, 2 * asking_);
}

}  // namespace coir::priv
