// Teaches: a program of fibers. A fiber's body is a coroutine or a plain function on a small stack of
// its own; both wait in plain sequential code, and while one waits the others run.
//
// Try it:  build/test/examples/hello
//
// OUTPUT
//   spawned: nothing has run yet
//   Hello from a coroutine!
//   Hello from a stack!

// README: hello
#include <coir/coir.hpp>

#include <chrono>
#include <cstdio>
#include <string>

using namespace std::chrono_literals;

coir::task<std::string> greet() {
  co_await coir::sleep_for(20ms);
  co_return "Hello from a coroutine!";
}

coir::task<int> hello() {
  coir::fiber<std::string> one = coir::spawn(greet());
  coir::fiber<std::string> other = coir::spawn([] {
    coir::await(coir::sleep_for(20ms));
    return std::string("Hello from a stack!");
  });
  std::puts("spawned: nothing has run yet");

  // Both sleep at the same time: this takes 20 ms, not 40.
  std::string first = co_await one.join();
  std::string second = co_await other.join();
  std::printf("%s\n%s\n", first.c_str(), second.c_str());
  co_return 0;
}

int main() { return coir::run(hello()); }
