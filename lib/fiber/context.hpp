// From one stack to another, and what has to be told to whom on the way. Private to lib/fiber; the only
// file besides context.cpp that knows Boost.Context and the sanitizers' interfaces.
#pragma once

#include <coir/base/config.hpp>
#include <coir/fiber/fiber_home.hpp>
#include <coir/fiber/stack.hpp>

#include <cstddef>

namespace coir::priv {

// Prepares a stack: the first switch to the context it returns calls stack_main(). `top` is the highest
// address that may be used.
void* make_context(std::byte* top, std::size_t bytes) noexcept;

// Runs on every new stack, and says where to go when all is over. Defined in scheduler.cpp.
stack_exit stack_main() noexcept;

// Saves where we are in `saved`, goes to `to`, and returns when somebody goes to `saved`. The C++
// runtime's record of exceptions in flight is kept per thread; it is put away here and brought back,
// because a fiber that waits inside a catch block would otherwise rethrow its neighbour's exception.
void switch_context(void*& saved, void* to, side& from, const side& target) noexcept;

// The calling thread's own stack as a side.
side thread_side() noexcept;

// What the sanitizers and Valgrind keep for a stack. The thread sanitizer's part takes it half a millisecond with gcc 12,
// and is made when the stack is first used.
#if COIR_THREAD_SANITIZER
void open_side(side& of) noexcept;
#else
inline void open_side(side&) noexcept {}
#endif
#if COIR_ADDRESS_SANITIZER
void clear_red_zones(std::byte* low, std::size_t bytes) noexcept;
#else
inline void clear_red_zones(std::byte*, std::size_t) noexcept {}
#endif
void close_side(side& of) noexcept;
unsigned tell_valgrind(std::byte* low, std::byte* high) noexcept;
void forget_valgrind(unsigned id) noexcept;

}  // namespace coir::priv
