// What nobody awaits does nothing, and is an error where warnings are errors.
#include <coir/coir.hpp>

#include <array>

coir::task<> forgets(coir::net::tcp_stream& stream, coir::net::tcp_listener& listener);

namespace {

coir::task<int> work() { co_return 1; }

}  // namespace

coir::task<> forgets(coir::net::tcp_stream& stream, coir::net::tcp_listener& listener) {
  std::array<std::byte, 16> buffer{};
  auto nothing = [] {};
  // Dropping a handle changes nothing; what is awaited may be dropped as well.
  coir::spawn(work());
  auto child = coir::spawn(work());
  co_await work();
  co_await coir::sleep_for(std::chrono::seconds(1));
  co_await stream.read_some(buffer);
  co_await listener.accept();
  co_await coir::on_stack(nothing);

  // WRONG 1: a task does nothing before it is awaited or spawned
#if WRONG == 1
  work();
#endif

  // WRONG 2: co_await it, or coir::await(it)
#if WRONG == 2
  coir::sleep_for(std::chrono::seconds(1));
#endif

  // WRONG 3: co_await it, or coir::await(it)
#if WRONG == 3
  coir::yield();
#endif

  // WRONG 4: co_await it, or coir::await(it)
#if WRONG == 4
  child.join();
#endif

  // WRONG 5: co_await it, or coir::await(it)
#if WRONG == 5
  child.take();
#endif

  // WRONG 6: co_await it, or coir::await(it)
#if WRONG == 6
  coir::as_result(stream.read_some(buffer));
#endif

  // WRONG 7: co_await it
#if WRONG == 7
  coir::on_stack(nothing);
#endif

  // WRONG 8: co_await it, or coir::await(it)
#if WRONG == 8
  stream.read_some(buffer);
#endif

  // WRONG 9: co_await it, or coir::await(it)
#if WRONG == 9
  coir::io::write_all(stream, buffer);
#endif

  // WRONG 10: co_await it, or coir::await(it)
#if WRONG == 10
  listener.accept();
#endif
}
