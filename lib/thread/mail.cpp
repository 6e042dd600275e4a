#include <coir/thread/mail.hpp>

#include <coir/base/error.hpp>
#include <coir/fiber/fiber_home.hpp>

#include <fmt/format.h>

namespace coir::priv {

namespace {

constexpr std::size_t ahead = 256;  // bytes: so far away that it is here in time

}  // namespace

// --- the link ---

mail_link::mail_link(loop& on, mail_queue& receiver) : receiver_(&receiver), port_(on.port()) {}

bool mail_link::push(mail& what) noexcept {
  std::uintptr_t word = word_.load(std::memory_order_relaxed);
  do {
    if ((word & is_closed) != 0) return false;
    what.next_ = chain_of(word);
    // Release: whoever takes the chain sees what this thread wrote before, the mail included. Acquire: this thread
    // may be the one that finds the loop gone, and takes the chain.
  } while (!word_.compare_exchange_weak(word, reinterpret_cast<std::uintptr_t>(&what) | is_told,
                                        std::memory_order_acq_rel, std::memory_order_relaxed));
  return (word & is_told) != 0 || tell(&what);
}

// False: one of `unless` was set.
bool mail_link::mark(std::uintptr_t flags, std::uintptr_t unless) noexcept {
  std::uintptr_t word = word_.load(std::memory_order_relaxed);
  do {
    if ((word & unless) != 0) return false;
  } while (!word_.compare_exchange_weak(word, word | flags, std::memory_order_acq_rel, std::memory_order_relaxed));
  if ((word & is_told) == 0) tell(nullptr);
  return true;
}

void mail_link::call() noexcept {
  if ((word_.load(std::memory_order_relaxed) & is_told) == 0) mark(is_told, is_told);
}

void mail_link::close() noexcept { mark(is_closed | is_told, is_closed); }

void mail_link::add_sender() noexcept {
  senders_.fetch_add(1, std::memory_order_relaxed);
  references_.fetch_add(1, std::memory_order_relaxed);
}

void mail_link::remove_sender() noexcept {
  // The loop has to hear of the last one, and with `told` comes to it in any case.
  if (senders_.fetch_sub(1, std::memory_order_acq_rel) == 1) mark(is_told, is_closed);
  release();
}

void mail_link::release() noexcept {
  if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
}

// Whoever has set `told` does it; until the knock has run nobody else will. False: the loop has ended, and `mine`, which
// came last, is still the caller's.
bool mail_link::tell(const mail* mine) noexcept {
  references_.fetch_add(1, std::memory_order_relaxed);
  if (port_->push(knock_)) return true;
  const bool was_there = unreachable(mine);
  release();
  return !was_there;
}

void mail_link::knock::lost() noexcept {
  of_.unreachable(nullptr);
  of_.release();
}

// The loop has ended. What came is lost, but for `spared`, and nothing more is taken. True: that one was there.
bool mail_link::unreachable(const mail* spared) noexcept {
  const std::uintptr_t word = word_.exchange(all_flags, std::memory_order_acq_rel);
  bool was_there = false;
  for (mail* each = chain_of(word); each != nullptr;) {
    mail* const last = std::exchange(each, each->next_);
    if (last == spared) {
      was_there = true;
    } else {
      last->drop();
    }
  }
  return was_there;
}

void mail_link::close_if_unreachable() noexcept {
  if (!port_->open()) unreachable(nullptr);
}

mail_batch mail_link::take(std::uintptr_t keep) noexcept {
  std::uintptr_t word = word_.load(std::memory_order_relaxed);
  // Acquire: pairs with the release of every push in the chain.
  while (!word_.compare_exchange_weak(word, word & keep, std::memory_order_acq_rel, std::memory_order_relaxed)) {
  }
  mail_batch taken;
  taken.last = chain_of(word);
  for (mail* newest = taken.last; newest != nullptr;) {
    // What one thread has sent lies in a row, and its lines are with that thread.
    __builtin_prefetch(reinterpret_cast<const std::byte*>(newest) - ahead);
    taken.asks |= newest->asks_;
    mail* const next = std::exchange(newest->next_, taken.first);
    taken.first = std::exchange(newest, next);
  }
  return taken;
}

void mail_link::knocked() {
  // From here on the next push knocks again, and may do so before this returns.
  const mail_batch batch = take(is_closed);
  if (receiver_ != nullptr) receiver_->arrived(batch);
}

void mail_link::abandon() noexcept {
  receiver_ = nullptr;
  unreachable(nullptr);
  release();
}

// --- the queue ---

loop& mail_queue::here() {
  if (loop* const running = loop_here(); running != nullptr) return *running;
  throw_misuse("a mailbox or remote channel was made where no loop runs: name the loop whose fibers are to receive");
}

mail_queue::mail_queue(loop& on) : link_(new mail_link(on, *this)), on_(&on), number_(on.number()), bound_(on) {}

mail_queue::~mail_queue() {
  while (!handed_.empty()) handed_.pop_front().from_ = nullptr;
  waiting_.for_each([](mail_wait& each) { each.from_ = nullptr; });
  while (first_ != nullptr) std::exchange(first_, first_->next_)->drop();
  link_->abandon();
}

void mail_queue::push(mail& what) noexcept {
  what.next_ = nullptr;
  (first_ == nullptr ? first_ : last_->next_) = &what;
  last_ = &what;
}

void mail_queue::put(const mail_batch& batch) noexcept {
  if (batch.asks) [[unlikely]] {
    for (mail* each = batch.first; each != nullptr;) {
      mail& next = *std::exchange(each, each->next_);
      next.asks_ ? asked(next) : push(next);
    }
  } else if (batch.first != nullptr) {
    (first_ == nullptr ? first_ : last_->next_) = batch.first;
    last_ = batch.last;
  }
}

void mail_queue::arrived(const mail_batch& batch) noexcept {
  ++knocks_;
  put(batch);
  if (link_->closed()) link_closed();
  pass_on_room();
  hand_out();
}

inline void mail_queue::made_room() noexcept {
  if (batch_ == 0) return;
  if (++freed_ == batch_) return pass_on_room();
  if (freed_ == 1) link_->call();
}

inline mail* mail_queue::pop_arrived() noexcept {
  if (first_ == nullptr) [[unlikely]]
    return pop_unqueued();
  mail* const first = std::exchange(first_, first_->next_);
  if (std::exchange(first->counted_, false)) made_room();
  return first;
}

mail* mail_queue::pop_unqueued() noexcept {
  mail* const next = next_in_line();
  if (next == nullptr) {
    pass_on_room();
  } else {
    next->counted_ = false;
  }
  return next;
}

inline mail* mail_queue::pop() noexcept {
  mail* const got = pop_arrived();
  if (got != nullptr || link_->empty()) return got;
  // A knock is on its way; what it is about can be had now.
  put(link_->take(mail_link::all_flags));
  return pop_arrived();
}

mail* mail_queue::try_take() {
  check();
  // Whoever waits has waited for what comes next.
  if (!waiting_.empty()) return nullptr;
  mail* const got = pop();
  if (got != nullptr) ++received_;
  return got;
}

void mail_queue::hand(mail_wait& to, mail* what) noexcept {
  to.got_ = what;
  wait_list<mail_wait>::wake(to);
  handed_.push_back(to);
}

void mail_queue::hand_out() noexcept {
  while (!waiting_.empty()) {
    mail* const next = pop_arrived();
    if (next == nullptr) {
      if (!drained()) break;
      waiting_.wake_all();
    } else {
      hand(waiting_.front(), next);
    }
  }
  update_hold();
}

void mail_queue::give_back(mail& what) noexcept {
  what.next_ = first_;
  if (first_ == nullptr) last_ = &what;
  first_ = &what;
  hand_out();
}

void mail_queue::update_hold() noexcept {
  const bool wanted = !waiting_.empty() && link_->senders() != 0;
  if (wanted == hold_.has_value()) return;
  if (wanted) {
    hold_.emplace(*on_);
  } else {
    hold_.reset();
  }
}

// The loop that it is for, and not the next at that address. Not asked of the port: its word travels between the
// threads with each message.
inline bool mail_queue::at_home() const noexcept {
  const loop& here = running_fiber().home().on();
  return &here == on_ && here.number() == number_;
}

std::size_t mail_queue::pending() const noexcept {
  std::size_t count = 0;
  for (const mail* each = first_; each != nullptr; each = each->next_) ++count;
  return count;
}

// --- waiting ---

bool mail_wait::start(waiter& told) {
  if (from_ == nullptr) throw_misuse("receiving from a mailbox or channel that ended while the same wait was under way");
  from_->check();
  if (!from_->at_home()) [[unlikely]]
    from_->link_->close_if_unreachable();
  if (from_->waiting_.empty()) {
    got_ = from_->pop();
    if (got_ != nullptr) {
      from_->handed_.push_back(*this);
      return false;
    }
    if (from_->drained()) return false;
  }
  from_->waiting_.add(*this, told);
  from_->update_hold();
  return true;
}

abort_answer mail_wait::abort() noexcept {
  const abort_answer answer = leave();
  if (answer == abort_answer::now && from_ != nullptr) from_->update_hold();
  return answer;
}

void mail_wait::return_it() noexcept {
  unlink();
  if (from_ != nullptr) {
    from_->give_back(*got_);
  } else {
    got_->drop();
  }
}

mail* mail_wait::take_mail() noexcept {
  if (got_ == nullptr) return nullptr;
  unlink();
  if (from_ != nullptr) ++from_->received_;
  return std::exchange(got_, nullptr);
}

void mail_wait::describe(std::string& text) const {
  if (from_ == nullptr) {
    text += " (what it comes through is gone)";
    return;
  }
  const std::size_t senders = from_->link_->senders();
  text += fmt::format(" ({} senders{})", senders, from_->link_->closed() ? ", closed" : "");
}

}  // namespace coir::priv
