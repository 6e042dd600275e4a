// Teaches: the loop alone, without fibers. Follows a file as `tail -f` does: a watched path says when it has
// grown, a timer shows that the loop lives, and SIGINT or SIGTERM end it.
//
// Try it:  build/test/examples/follow /var/log/syslog        and end it with Ctrl-C
//
// Without a file it follows one of its own, which a second timer makes grow, and ends itself.
//
// OUTPUT
//   one
//   two
//   three
//   followed 3 lines, ended by SIGTERM

#include <coir/loop/loop.hpp>

#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <optional>
#include <string>

using namespace std::chrono_literals;

class follower {
 public:
  follower(coir::loop& loop, const std::string& path)
      : file_(path),
        change_(loop.watch_path(path, coir::fs_mask::modify, [this] { print_new_lines(); })) {
    print_new_lines();  // what is there already
  }
  int lines() const { return lines_; }

 private:
  void print_new_lines() {
    for (std::string line; std::getline(file_, line); ++lines_) std::cout << line << std::endl;
    file_.clear();  // the end is not the end: more may come
  }
  std::ifstream file_;
  coir::owned<coir::path_watch> change_;
  int lines_ = 0;
};

// A file that grows by itself, line by line.
class growing_file {
 public:
  explicit growing_file(coir::loop& loop) {
    ::close(::mkstemp(path_.data()));
    growth_ = loop.every(20ms, [this](coir::timer& growth) {
      static const char* const lines[] = {"one", "two", "three"};
      std::ofstream(path_, std::ios::app) << lines[written_] << std::endl;
      if (++written_ < 3) return;
      growth.cancel();
      std::raise(SIGTERM);  // blocked, and read by the loop: it comes after what the file says
    });
  }
  ~growing_file() { ::unlink(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_ = "/tmp/follow.XXXXXX";
  coir::owned<coir::timer> growth_;
  int written_ = 0;
};

// README: main
int main(int argc, char** argv) {
  coir::loop loop;
  std::string ended_by;
  auto end = loop.signal({SIGINT, SIGTERM}, [&](coir::signal_event event) {
    ended_by = coir::name_of_signal(event.number);
    loop.stop();
  });
  int seconds = 0;
  auto alive = loop.every(1s, [&] { std::fprintf(stderr, "following for %d s\r", ++seconds); });

  std::optional<growing_file> own;
  if (argc < 2) own.emplace(loop);
  const follower file(loop, own ? own->path() : argv[1]);
  loop.run();
  std::cout << "followed " << file.lines() << " lines, ended by " << ended_by << "\n";
}
// README end
