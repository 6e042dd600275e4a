// A consumer on epoll that opens what blocks: a pool of threads has to do it, though nothing here names one. In a static
// library that is so only because coir/coir.hpp asks for it.
//
// OUTPUT
//   the end to read is open
//   the end to write is open

#include <coir/coir.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

using open_op = coir::request_op<coir::readiness>;

// Waits for the other end to be opened.
coir::task<int> open_end(const std::string& path, int flags) {
  open_op opening(*coir::loop::current(), coir::request::open(path.c_str(), flags, 0));
  co_return co_await opening;
}

coir::task<int> open_both(const std::string& path) {
  auto reading = coir::spawn(open_end(path, O_RDONLY));
  auto writing = coir::spawn(open_end(path, O_WRONLY));
  const coir::unique_fd read_end(co_await reading.take());
  if (read_end) std::puts("the end to read is open");
  const coir::unique_fd write_end(co_await writing.take());
  if (write_end) std::puts("the end to write is open");
  co_return 0;
}

int main() {
  std::string folder = "/tmp/coir-consumer-XXXXXX";
  if (::mkdtemp(folder.data()) == nullptr) return 1;
  const std::string path = folder + "/fifo";
  if (::mkfifo(path.c_str(), 0600) != 0) return 1;
  const int code = coir::run(open_both(path), coir::run_options().loop(
                                                  coir::loop_options().backend(coir::backend_kind::epoll)));
  ::unlink(path.c_str());
  ::rmdir(folder.c_str());
  return code;
}
