// The SIGSEGV handler that names the fiber whose stack overflowed. Private to lib/fiber.
#pragma once

namespace coir::priv {

// Counted: the handler is there while anybody wants it. The calling thread gets an alternate stack.
void report_stack_overflow();
void stop_reporting_stack_overflow() noexcept;

}  // namespace coir::priv
