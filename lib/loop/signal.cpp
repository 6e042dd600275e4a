#include <coir/loop/signal.hpp>

#include <coir/base/error.hpp>
#include <coir/loop/loop.hpp>

#include "signal_hub.hpp"

#include <fmt/format.h>

#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace coir {

namespace {

// 0: nobody; else the number of a loop, and this bit. The kernel has 64 numbers, from 1 on.
constexpr std::uint32_t taken = 1U << 16;
constinit std::array<atomic<std::uint32_t>, 64> owners{};

// Why there is no waiting for it; null: there is.
const char* why_refused(int number) noexcept {
  switch (number) {
    case SIGKILL:
    case SIGSTOP: return "the kernel lets nobody have it";
    case SIGTRAP:
    case SIGSEGV:
    case SIGBUS:
    case SIGFPE:
    case SIGILL:
    case SIGSYS: return "it comes of what a thread just does, which cannot go on before it is answered";
    default: return number > SIGSYS && number < SIGRTMIN ? "it is the C library's own" : nullptr;
  }
}

}  // namespace

std::string name_of_signal(int number) {
  if (number >= SIGRTMIN && number <= SIGRTMAX) {
    return number == SIGRTMIN ? "SIGRTMIN" : fmt::format("SIGRTMIN+{}", number - SIGRTMIN);
  }
  const char* const name = ::sigabbrev_np(number);
  return name != nullptr ? fmt::format("SIG{}", name) : fmt::format("signal {}", number);
}

// --- signal_set ---

void signal_set::add(int number) {
  if (number < 1 || number > SIGRTMAX) {
    throw std::invalid_argument(fmt::format("{} is no signal: they are numbered 1 to {}", number, SIGRTMAX));
  }
  if (const char* const why = why_refused(number)) {
    throw std::invalid_argument(fmt::format("{} cannot be waited for: {}", name_of_signal(number), why));
  }
  bits_ |= std::uint64_t{1} << (number - 1);
}

std::string signal_set::names() const {
  std::string all;
  for (std::uint64_t left = bits_; left != 0; left &= left - 1) {
    if (!all.empty()) all += ", ";
    all += name_of_signal(std::countr_zero(left) + 1);
  }
  return all;
}

// --- signal_owners ---

void signal_owners::take(std::uint64_t numbers, std::uint16_t loop) {
  for (std::uint64_t left = numbers; left != 0; left &= left - 1) {
    const auto at = static_cast<std::size_t>(std::countr_zero(left));
    std::uint32_t before = 0;
    if (owners[at].compare_exchange_strong(before, taken | loop, std::memory_order_acq_rel)) continue;
    give_back(numbers & ~left);
    throw_error(EBUSY, fmt::format("loop {} wants {}, which belongs to loop {} until that lets it go", loop,
                                   name_of_signal(static_cast<int>(at) + 1), before & ~taken));
  }
}

void signal_owners::give_back(std::uint64_t numbers) noexcept {
  for (; numbers != 0; numbers &= numbers - 1) {
    owners[static_cast<std::size_t>(std::countr_zero(numbers))].store(0, std::memory_order_release);
  }
}

void signal_owners::forget() noexcept { give_back(~std::uint64_t{0}); }

// --- signal_subscriber, signal_watch ---

void signal_subscriber::attach(loop& to) { to.signals().attach(*this); }

void signal_subscriber::detach() noexcept {
  if (attached()) hub_->detach(*this);
}

signal_watch::signal_watch(loop& of, const signal_set& numbers, callback<const signal_event&>&& then)
    : registration(of, registration_kind::signal), node_(numbers, this), then_(std::move(then)) {
  of.signals().look_anew(numbers);
  node_.attach(of);
}

void signal_watch::tell(signal_subscriber& node, const signal_event& event) {
  signal_watch& self = *static_cast<own_node&>(node).whose;
  const call during(self);
  self.then_(event);
}

std::string signal_watch::describe() const { return "signal " + numbers().names(); }

}  // namespace coir
