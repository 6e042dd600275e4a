// coir/base/config.hpp: what this compiler, this build and this machine are. The only file that asks.
//
// Everything else tests the names below, so that a port changes one file.
//
// Shape    preprocessor names that are 0 or 1, and two attributes.
// Thread   any.
// Errors   none.
// Cost     none at run time.
#pragma once

#include <version>

// The coroutine defects listed in README.md ("Coroutines on gcc 12") end with gcc 13.
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 13
#define COIR_GCC_BEFORE_13 1
#else
#define COIR_GCC_BEFORE_13 0
#endif

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define COIR_ADDRESS_SANITIZER 1
#endif
#if __has_feature(thread_sanitizer)
#define COIR_THREAD_SANITIZER 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define COIR_ADDRESS_SANITIZER 1
#endif
#if defined(__SANITIZE_THREAD__)
#define COIR_THREAD_SANITIZER 1
#endif
#if !defined(COIR_ADDRESS_SANITIZER)
#define COIR_ADDRESS_SANITIZER 0
#endif
#if !defined(COIR_THREAD_SANITIZER)
#define COIR_THREAD_SANITIZER 0
#endif

// Thread-locals that inline code reads on every switch. Without the attribute a shared library would
// call __tls_get_addr for each; with it they cost one instruction. The price: libcoir must be there
// when the process starts or fit in the loader's spare static TLS (it uses a few words). At the declaration
// and at the definition: g++ 12 forgets the former where a file has seen both.
#define COIR_TLS __attribute__((tls_model("initial-exec")))
