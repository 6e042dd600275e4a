#include "context.hpp"

#include <coir/base/config.hpp>

#include <boost/context/detail/fcontext.hpp>
#include <cxxabi.h>
#include <pthread.h>

#if COIR_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#endif
#if COIR_THREAD_SANITIZER
#include <sanitizer/tsan_interface.h>
#define COIR_NOT_SANITIZED __attribute__((no_sanitize("thread")))
#else
#define COIR_NOT_SANITIZED
#endif
#if COIR_HAS_VALGRIND
#include <valgrind/valgrind.h>
#endif

// jump_fcontext is called, and arrives by a jump. The processor predicts returns by the calls that it has seen, so it
// would be one call behind, and wrong about every return on the stack that it comes to. Called by way of this it
// arrives at a return (lib/fiber/NOTE.md has what that is worth). The nop is for unwinders, which look one byte in front
// of where a call returns to. aarch64's jump arrives by a return itself. Where control flow is protected (-fcf-protection)
// it is called as it is: a shadow stack would not know the address that is pushed here.
#if defined(__x86_64__) && !defined(__CET__)
#define COIR_BALANCES_RETURNS 1
asm(R"(
  .pushsection .text
  .p2align 4
  .globl coir_jump_fcontext
  .hidden coir_jump_fcontext
  .type coir_jump_fcontext, @function
coir_jump_fcontext:
  .cfi_startproc
  leaq 1f(%rip), %rax
  pushq %rax
  .cfi_adjust_cfa_offset 8
  jmp jump_fcontext@PLT
  .cfi_adjust_cfa_offset -8
  nop
1:
  ret
  .cfi_endproc
  .size coir_jump_fcontext, . - coir_jump_fcontext
  .popsection
)");
extern "C" [[gnu::visibility("hidden")]] boost::context::detail::transfer_t coir_jump_fcontext(
    boost::context::detail::fcontext_t to, void* data);
#else
#define COIR_BALANCES_RETURNS 0
#endif

namespace coir::priv {

namespace context = boost::context::detail;

namespace {

// The two words behind __cxa_get_globals(), as the C++ ABI lays them out.
struct exceptions_in_flight {
  void* caught;
  unsigned uncaught;
};

// The address is constant in a thread, and fibers stay on theirs: one load instead of a call per switch.
constinit thread_local exceptions_in_flight* own_exceptions COIR_TLS = nullptr;

exceptions_in_flight& exceptions() noexcept {
  if (own_exceptions == nullptr) [[unlikely]] {
    own_exceptions = reinterpret_cast<exceptions_in_flight*>(abi::__cxa_get_globals());
  }
  return *own_exceptions;
}

// Where a stack that is left for good "saves" its context.
constinit thread_local void* nowhere COIR_TLS = nullptr;

// Whoever arrives saves where the other side stopped: only now is that known.
COIR_NOT_SANITIZED void arrive(context::transfer_t from) noexcept {
  *static_cast<void**>(from.data) = from.fctx;
}

COIR_NOT_SANITIZED context::transfer_t jump(void* to, void* data) noexcept {
#if COIR_BALANCES_RETURNS
  return coir_jump_fcontext(to, data);
#else
  return context::jump_fcontext(to, data);
#endif
}

// A call would be one that nothing returns from.
[[noreturn]] COIR_NOT_SANITIZED void jump_for_good(void* to, void* data) noexcept {
#if COIR_BALANCES_RETURNS
  asm volatile("jmp jump_fcontext@PLT" : : "D"(to), "S"(data) : "memory");
#else
  context::jump_fcontext(to, data);
#endif
  __builtin_unreachable();
}

// The last thing on a stack: nothing of it is touched afterwards.
[[noreturn]] COIR_NOT_SANITIZED void leave(void* to, [[maybe_unused]] const side& target) noexcept {
#if COIR_ADDRESS_SANITIZER
  // Null: the fake frames of this stack are freed.
  __sanitizer_start_switch_fiber(nullptr, target.low, target.bytes);
#endif
#if COIR_THREAD_SANITIZER
  __tsan_switch_to_fiber(target.sanitizer_fiber, 0);
#endif
  jump_for_good(to, &nowhere);
}

COIR_NOT_SANITIZED void first_arrival(context::transfer_t from) {
  arrive(from);
#if COIR_ADDRESS_SANITIZER
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
  exceptions() = {nullptr, 0};
  const stack_exit exit = stack_main();
  leave(exit.to, *exit.target);
}

}  // namespace

void* make_context(std::byte* top, std::size_t bytes) noexcept {
  return context::make_fcontext(top, bytes, first_arrival);
}

// The sanitizers are told from here and not from a caller: the thread sanitizer keeps a shadow stack of
// calls, which must be switched where no instrumented call is open.
COIR_NOT_SANITIZED void switch_context(void*& saved, void* to, [[maybe_unused]] side& from,
                                       [[maybe_unused]] const side& target) noexcept {
  exceptions_in_flight& of_thread = exceptions();
  const exceptions_in_flight mine = of_thread;
#if COIR_ADDRESS_SANITIZER
  __sanitizer_start_switch_fiber(&from.fake_stack, target.low, target.bytes);
#endif
#if COIR_THREAD_SANITIZER
  __tsan_switch_to_fiber(target.sanitizer_fiber, 0);
#endif
  arrive(jump(to, &saved));
#if COIR_ADDRESS_SANITIZER
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
  of_thread = mine;
}

side thread_side() noexcept {
  side own;
#if COIR_ADDRESS_SANITIZER
  pthread_attr_t attributes;
  if (::pthread_getattr_np(::pthread_self(), &attributes) == 0) {
    void* low = nullptr;
    ::pthread_attr_getstack(&attributes, &low, &own.bytes);
    own.low = static_cast<std::byte*>(low);
    ::pthread_attr_destroy(&attributes);
  }
#endif
#if COIR_THREAD_SANITIZER
  own.sanitizer_fiber = __tsan_get_current_fiber();
#endif
  return own;
}

#if COIR_ADDRESS_SANITIZER
void clear_red_zones(std::byte* low, std::size_t bytes) noexcept {
  __asan_unpoison_memory_region(low, bytes);
}
#endif

#if COIR_THREAD_SANITIZER
void open_side(side& of) noexcept {
  if (of.sanitizer_fiber == nullptr) of.sanitizer_fiber = __tsan_create_fiber(0);
}
#endif

void close_side([[maybe_unused]] side& of) noexcept {
#if COIR_THREAD_SANITIZER
  if (of.sanitizer_fiber != nullptr) __tsan_destroy_fiber(of.sanitizer_fiber);
  of.sanitizer_fiber = nullptr;
#endif
}

unsigned tell_valgrind([[maybe_unused]] std::byte* low, [[maybe_unused]] std::byte* high) noexcept {
#if COIR_HAS_VALGRIND
  return static_cast<unsigned>(VALGRIND_STACK_REGISTER(low, high));
#else
  return 0;
#endif
}

void forget_valgrind([[maybe_unused]] unsigned id) noexcept {
#if COIR_HAS_VALGRIND
  VALGRIND_STACK_DEREGISTER(id);
#endif
}

}  // namespace coir::priv
