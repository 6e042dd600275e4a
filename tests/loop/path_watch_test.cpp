// Watched paths: inotify through the loop.
#include "support/child_process.hpp"
#include "support/counted_heap.hpp"
#include "support/descriptor_limit.hpp"
#include "support/loop_tools.hpp"

#include <coir/loop/loop.hpp>

#include <poll.h>
#include <sched.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using namespace std::string_literals;
using Catch::Matchers::Contains;
using coir::fs_event;
using coir::fs_mask;
using texts = std::vector<std::string>;

namespace {

// A directory that is removed with all that is in it.
class folder {
 public:
  folder() {
    char name[] = "/tmp/coir_path_XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    path = name;
  }
  folder(const folder&) = delete;
  ~folder() { std::filesystem::remove_all(path); }
  std::string operator/(const std::string& name) const { return path + "/" + name; }
  std::string path;
};

coir::unique_fd opened(const std::string& path, int how = O_WRONLY | O_CREAT | O_CLOEXEC) {
  coir::unique_fd made(::open(path.c_str(), how, 0600));
  REQUIRE(made);
  return made;
}
void make(const std::string& path) { opened(path); }
void append(const std::string& path) {
  const coir::unique_fd file = opened(path, O_WRONLY | O_APPEND | O_CLOEXEC);
  REQUIRE(::write(file.get(), "x", 1) == 1);
}

void say(const std::string& text) { std::fprintf(stderr, "%s\n", text.c_str()); }

// Descriptors of inotify, and the watches the kernel keeps for them.
struct kernel_view {
  std::size_t descriptors = 0;
  std::size_t watches = 0;
};
kernel_view inotify_now() {
  kernel_view seen;
  std::error_code ignored;
  for (const auto& each : std::filesystem::directory_iterator("/proc/self/fd")) {
    const std::string link = std::filesystem::read_symlink(each.path(), ignored).string();
    if (link.find("inotify") == std::string::npos) continue;
    ++seen.descriptors;
    std::ifstream info("/proc/self/fdinfo/" + each.path().filename().string());
    for (std::string line; std::getline(info, line);) seen.watches += line.rfind("inotify wd:", 0) == 0;
  }
  return seen;
}

std::string word_of(const fs_event& e) {
  switch (e.what) {
    case fs_mask::access: return "access";
    case fs_mask::modify: return "modify";
    case fs_mask::attributes: return "attributes";
    case fs_mask::close_write: return "close_write";
    case fs_mask::close_nowrite: return "close_nowrite";
    case fs_mask::open: return "open";
    case fs_mask::moved_from: return "moved_from";
    case fs_mask::moved_to: return "moved_to";
    case fs_mask::create: return "create";
    case fs_mask::remove: return "remove";
    case fs_mask::remove_self: return "remove_self";
    case fs_mask::move_self: return "move_self";
    case fs_mask::overflow: return "overflow";
    case fs_mask::gone: return "gone";
    default: return "several";
  }
}
// "create a" into `log`.
auto to(texts& log) {
  return [&log](const fs_event& e) {
    log.push_back(word_of(e) + (e.name.empty() ? "" : " " + std::string(e.name)) + (e.is_directory ? "/" : ""));
  };
}
// The names alone.
auto names_to(std::string& log) {
  return [&log](fs_event e) { log += std::string(e.name) + " "; };
}

// Until the kernel has nothing more.
void drain(coir::loop& loop) {
  while (loop.run_once() != 0) {
  }
  support::idle_turns(loop);
}

template <class Error, class Use>
std::string text_of(Use&& use) {
  try {
    use();
  } catch (const Error& error) {
    return error.what();
  }
  return "not refused";
}

constexpr fs_mask names = fs_mask::create | fs_mask::remove;

}  // namespace

TEST_CASE("masks are combined, cut and asked") {
  constexpr fs_mask both = fs_mask::create | fs_mask::open;
  static_assert((both & fs_mask::open) == fs_mask::open);
  static_assert((both & ~fs_mask::open) == fs_mask::create);
  static_assert((fs_mask::all & (fs_mask::overflow | fs_mask::gone)) == fs_mask::none);
  fs_event e;
  CHECK_FALSE(e.is(fs_mask::all));
  e.what = fs_mask::open;
  CHECK(e.is(both));
  CHECK_FALSE(e.is(fs_mask::create));
}

TEST_CASE("what is made and removed in a watched directory is told by name") {
  coir::loop loop;
  const folder in;
  std::string seen;
  auto d = loop.watch_path(in.path, names, [&](fs_event e) {
    CHECK(e.path == in.path);
    CHECK(e.cookie == 0);
    seen += word_of(e) + " " + std::string(e.name) + (e.is_directory ? "/ " : " ");
  });
  CHECK(loop.run_once() == 0);
  make(in / "a");
  REQUIRE(::mkdir((in / "b").c_str(), 0700) == 0);
  REQUIRE(::unlink((in / "a").c_str()) == 0);
  CHECK(seen.empty());
  loop.run_once();
  CHECK(seen == "create a create b/ remove a ");
}

TEST_CASE("every kind of event is told to those who ask for it") {
  coir::loop loop;
  const folder in;
  make(in / "f");
  texts log;
  auto d = loop.watch_path(in.path, fs_mask::all, to(log));
  const auto after = [&](auto&& act) {
    log.clear();
    act();
    drain(loop);
    return log;
  };
  CHECK(after([&] { make(in / "n"); }) == texts{"create n", "open n", "close_write n"});
  CHECK(after([&] { append(in / "f"); }) == texts{"open f", "modify f", "close_write f"});
  CHECK(after([&] {
          const coir::unique_fd file = opened(in / "f", O_RDONLY | O_CLOEXEC);
          char byte = 0;
          REQUIRE(::read(file.get(), &byte, 1) == 1);
        }) == texts{"open f", "access f", "close_nowrite f"});
  CHECK(after([&] { REQUIRE(::chmod((in / "f").c_str(), 0640) == 0); }) == texts{"attributes f"});
  CHECK(after([&] { REQUIRE(::rename((in / "f").c_str(), (in / "g").c_str()) == 0); }) ==
        texts{"moved_from f", "moved_to g"});
  CHECK(after([&] { REQUIRE(::unlink((in / "g").c_str()) == 0); }) == texts{"remove g"});
  CHECK(after([&] { REQUIRE(::rename(in.path.c_str(), (in.path + "_moved").c_str()) == 0); }) ==
        texts{"move_self"});
  CHECK(after([&] { std::filesystem::remove_all(in.path + "_moved"); }).back() == "gone");
  CHECK(std::find(log.begin(), log.end(), "remove_self") != log.end());
}

TEST_CASE("the two halves of a renaming have the same cookie, and another one than the next") {
  coir::loop loop;
  const folder in;
  make(in / "a");
  std::vector<std::uint32_t> cookies;
  auto d = loop.watch_path(in.path, fs_mask::moved_from | fs_mask::moved_to,
                           [&](fs_event e) { cookies.push_back(e.cookie); });
  REQUIRE(::rename((in / "a").c_str(), (in / "b").c_str()) == 0);
  REQUIRE(::rename((in / "b").c_str(), (in / "c").c_str()) == 0);
  drain(loop);
  REQUIRE(cookies.size() == 4);
  CHECK(cookies[0] == cookies[1]);
  CHECK(cookies[2] == cookies[3]);
  CHECK(cookies[0] != cookies[2]);
  CHECK(cookies[0] != 0);
}

TEST_CASE("a loop with nothing but a watched path sleeps until something happens there, and runs until it ends") {
  coir::loop loop;
  const folder in;
  std::string seen;
  coir::owned<coir::path_watch> d;
  d = loop.watch_path(in.path, fs_mask::create, [&](fs_event e) {
    seen = e.name;
    d.reset();
  });
  auto later = loop.after(10ms, [&] { make(in / "late"); });
  loop.run();
  CHECK(seen == "late");
}

TEST_CASE("registrations of one file share the kernel's watch, each hears its own, and the last one releases it") {
  support::leaves_no_descriptor([] {
    coir::loop loop;
    const folder in;
    make(in / "f");
    REQUIRE(::link((in / "f").c_str(), (in / "same").c_str()) == 0);
    texts one, other, third;
    auto a = loop.watch_path(in / "f", fs_mask::modify, to(one));
    CHECK(inotify_now().watches == 1);
    auto b = loop.watch_path(in / "same", fs_mask::attributes, to(other));
    auto c = loop.watch_path(in.path + "/./f", fs_mask::modify | fs_mask::attributes, to(third));
    CHECK(inotify_now().watches == 1);
    CHECK(inotify_now().descriptors == 1);
    append(in / "f");
    REQUIRE(::chmod((in / "f").c_str(), 0640) == 0);
    drain(loop);
    CHECK(one == texts{"modify"});
    CHECK(other == texts{"attributes"});
    CHECK(third == texts{"modify", "attributes"});

    a.reset();
    c.reset();
    CHECK(inotify_now().watches == 1);
    append(in / "f");
    REQUIRE(::chmod((in / "f").c_str(), 0600) == 0);
    drain(loop);
    CHECK(other == texts{"attributes", "attributes"});
    auto elsewhere = loop.watch_path(in.path, names, to(one));
    CHECK(inotify_now().watches == 2);
    b->cancel();
    CHECK(inotify_now().watches == 1);
    elsewhere.reset();
    CHECK(inotify_now().watches == 0);
  });
}

TEST_CASE("the kernel's confirmation of a watch that was ended here is told to nobody") {
  coir::loop loop;
  const folder in;
  make(in / "f");
  texts log;
  auto keeps_it_open = loop.watch_path(in.path, fs_mask::create, to(log));
  {
    auto brief = loop.watch_path(in / "f", fs_mask::modify, to(log));
    append(in / "f");
  }
  auto again = loop.watch_path(in / "f", fs_mask::modify, to(log));
  drain(loop);
  CHECK(log.empty());
  CHECK(again);
  append(in / "f");
  drain(loop);
  CHECK(log == texts{"modify"});
}

TEST_CASE("events come in the kernel's order, and each in the order of registering") {
  coir::loop loop;
  const folder in;
  REQUIRE(::mkdir((in / "one").c_str(), 0700) == 0);
  REQUIRE(::mkdir((in / "two").c_str(), 0700) == 0);
  std::string order;
  const auto note = [&](std::string who) {
    return [&order, who](fs_event e) { order += who + std::string(e.name) + " "; };
  };
  std::vector<coir::owned<coir::path_watch>> kept;
  kept.push_back(loop.watch_path(in / "two", names, note("A")));
  kept.push_back(loop.watch_path(in / "one", names, note("B")));
  kept.push_back(loop.watch_path(in / "two", names, note("C")));
  // More than the table has room for at first.
  for (int i = 0; i < 40; ++i) {
    REQUIRE(::mkdir((in / std::to_string(i)).c_str(), 0700) == 0);
    kept.push_back(loop.watch_path(in / std::to_string(i), names, note("?")));
  }
  kept.push_back(loop.watch_path(in / "two", names, note("D")));
  make(in / "two/1");
  make(in / "one/2");
  make(in / "two/3");
  drain(loop);
  CHECK(order == "A1 C1 D1 B2 A3 C3 D3 ");
}

TEST_CASE("a registration that another one ends hears nothing more, not even of the event that is being told") {
  coir::loop loop;
  const folder in;
  std::string order;
  coir::owned<coir::path_watch> a, b, c;
  a = loop.watch_path(in.path, names, [&] {
    order += "a ";
    b.reset();
  });
  b = loop.watch_path(in.path, names, [&] { order += "b "; });
  c = loop.watch_path(in.path, names, [&] {
    order += "c ";
    c->cancel();
  });
  make(in / "1");
  make(in / "2");
  drain(loop);
  CHECK(order == "a c a ");
  CHECK_FALSE(b);
  CHECK_FALSE(c);
  CHECK(loop.census().paths == 1);
}

TEST_CASE("the last registration may end itself in its callback, with events left, and make another") {
  coir::loop loop;
  const folder in;
  auto alive = std::make_shared<std::string>();
  const std::weak_ptr<std::string> seen = alive;
  std::string first, second;
  coir::owned<coir::path_watch> d;
  d = loop.watch_path(in.path, names, [&, alive](fs_event e) {
    d = loop.watch_path(in.path, names, names_to(second));
    *alive += e.name;
    first += *alive;
  });
  alive.reset();
  make(in / "a");
  make(in / "b");
  drain(loop);
  CHECK(first == "a");
  CHECK(second.empty());
  CHECK(seen.expired());
  make(in / "c");
  drain(loop);
  CHECK(second == "c ");
  CHECK(inotify_now().descriptors == 1);
}

TEST_CASE("one that is registered in a callback hears of what happens afterwards only") {
  coir::loop loop;
  const folder in;
  std::string first, late;
  coir::owned<coir::path_watch> b;
  auto a = loop.watch_path(in.path, names, [&](fs_event e) {
    first += std::string(e.name) + " ";
    if (!b) b = loop.watch_path(in.path, names, names_to(late));
  });
  for (const char* name : {"1", "2", "3"}) make(in / name);
  drain(loop);
  make(in / "4");
  drain(loop);
  CHECK(first == "1 2 3 4 ");
  CHECK(late == "4 ");
}

TEST_CASE("one more registration of a file hears of nothing before, but for the last event") {
  coir::loop loop;
  const folder in;
  std::string first, late;
  auto a = loop.watch_path(in.path, names, names_to(first));
  for (const char* name : {"1", "2", "3"}) make(in / name);
  auto b = loop.watch_path(in.path, names, names_to(late));
  make(in / "4");
  drain(loop);
  CHECK(first == "1 2 3 4 ");
  CHECK(late == "3 4 ");
}

TEST_CASE("an event that the kernel merges with an equal one is heard by who registered between the two") {
  coir::loop loop;
  const folder in;
  make(in / "f");
  texts first, late;
  auto a = loop.watch_path(in / "f", fs_mask::modify, to(first));
  append(in / "f");
  auto b = loop.watch_path(in / "f", fs_mask::modify, to(late));
  append(in / "f");
  drain(loop);
  CHECK(first == texts{"modify"});
  CHECK(late == texts{"modify"});
}

TEST_CASE("a deleted file's watch is gone: it has ended when it is told so, and nothing is left of it") {
  support::leaves_no_descriptor([] {
    coir::loop loop;
    const folder in;
    make(in / "f");
    texts log;
    bool active = true;
    coir::owned<coir::path_watch> d;
    d = loop.watch_path(in / "f", fs_mask::remove_self, [&](const fs_event& e) {
      to(log)(e);
      if (e.is(fs_mask::gone)) {
        active = static_cast<bool>(d);
        CHECK(e.path == in / "f");
      }
    });
    REQUIRE(::unlink((in / "f").c_str()) == 0);
    loop.run();
    CHECK(log == texts{"remove_self", "gone"});
    CHECK_FALSE(active);
    CHECK_FALSE(d);
    CHECK(loop.census().paths == 0);
    CHECK(inotify_now().watches == 0);
    CHECK_THROWS_AS(d->on(), std::logic_error);
  });
}

TEST_CASE("all registrations of a deleted file are told that it is gone, whatever their masks") {
  coir::loop loop;
  const folder in;
  make(in / "f");
  texts log;
  auto a = loop.watch_path(in / "f", fs_mask::modify, to(log));
  auto other = loop.watch_path(in.path, fs_mask::create, to(log));
  auto b = loop.watch_path(in / "f", fs_mask::access, to(log));
  REQUIRE(::unlink((in / "f").c_str()) == 0);
  drain(loop);
  CHECK(log == texts{"gone", "gone"});
  CHECK_FALSE(a);
  CHECK_FALSE(b);
  CHECK(other);
  CHECK(inotify_now().watches == 1);
}

TEST_CASE("a path is watched anew from the callback that says it is gone") {
  coir::loop loop;
  const folder in;
  make(in / "f");
  texts log;
  coir::owned<coir::path_watch> d;
  std::function<void(const fs_event&)> then = [&](const fs_event& e) {
    to(log)(e);
    if (!e.is(fs_mask::gone)) return;
    make(in / "f");
    d = loop.watch_path(in / "f", fs_mask::modify, then);
  };
  d = loop.watch_path(in / "f", fs_mask::modify, then);
  for (int i = 0; i < 3; ++i) {
    REQUIRE(::unlink((in / "f").c_str()) == 0);
    drain(loop);
    append(in / "f");
    drain(loop);
  }
  CHECK(log == texts{"gone", "modify", "gone", "modify", "gone", "modify"});
  CHECK(inotify_now().watches == 1);
}

TEST_CASE("one that ends before the kernel's word that its file is gone is read hears nothing") {
  coir::loop loop;
  const folder in;
  make(in / "f");
  texts log;
  auto other = loop.watch_path(in.path, fs_mask::remove, to(log));
  auto d = loop.watch_path(in / "f", fs_mask::all, to(log));
  REQUIRE(::unlink((in / "f").c_str()) == 0);
  d.reset();
  drain(loop);
  CHECK(log == texts{"remove f"});
}

TEST_CASE("a path whose file system is unmounted is gone") {
  const folder in;
  const auto child = support::in_child([&] {
    if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("none", in.path.c_str(), "tmpfs", 0, nullptr) != 0) {
      return say("not allowed");
    }
    coir::loop loop;
    texts log;
    auto d = loop.watch_path(in.path, fs_mask::create, to(log));
    if (::umount2(in.path.c_str(), 0) != 0) say("not unmounted");
    drain(loop);
    for (const std::string& each : log) say(each);
    if (d) say("active");
  });
  CHECK(child.exit_code == 0);
  if (child.text == "not allowed\n") return;
  CHECK(child.text == "gone\n");
}

TEST_CASE("at most 256 events are told in a turn, the rest in the next ones") {
  coir::loop loop;
  const folder in;
  make(in / "f");
  int events = 0;
  auto d = loop.watch_path(in / "f", fs_mask::open | fs_mask::close_nowrite, [&] { ++events; });
  int timers = 0;
  auto tick = loop.after(0ns, [&] { ++timers; });
  for (int i = 0; i < 300; ++i) opened(in / "f", O_RDONLY | O_CLOEXEC);
  loop.run_once();
  CHECK(events == 256);
  CHECK(timers == 1);
  loop.run_once();
  CHECK(events == 512);
  loop.run_once();
  CHECK(events == 600);
  CHECK(loop.run_once() == 0);
}

TEST_CASE("what an exception leaves untold is told by the next run: other registrations, and later events") {
  coir::loop loop;
  const folder in;
  std::string order;
  const auto note = [&](const char* who, std::string throws_at) {
    return [&order, who, throws_at](fs_event e) {
      order += who + std::string(e.name) + " ";
      if (e.name == throws_at) throw std::runtime_error(throws_at);
    };
  };
  auto a = loop.watch_path(in.path, names, note("a", "2"));
  auto b = loop.watch_path(in.path, names, note("b", "3"));
  for (const char* name : {"1", "2", "3"}) make(in / name);
  CHECK_THROWS_WITH(loop.run_once(), "2");
  CHECK(order == "a1 b1 a2 ");
  make(in / "4");
  CHECK_THROWS_WITH(loop.run_once(), "3");
  CHECK(order == "a1 b1 a2 b2 a3 b3 ");
  drain(loop);
  CHECK(order == "a1 b1 a2 b2 a3 b3 a4 b4 ");
  CHECK(loop.run_once() == 0);
}

TEST_CASE("what a stop leaves untold is told by the next run, which does not wait for more") {
  coir::loop loop;
  const folder in;
  std::string order;
  auto a = loop.watch_path(in.path, names, [&](fs_event e) {
    order += "a" + std::string(e.name) + " ";
    loop.stop();
  });
  auto b = loop.watch_path(in.path, names, [&](fs_event e) { order += "b" + std::string(e.name) + " "; });
  for (const char* name : {"1", "2", "3"}) make(in / name);
  loop.run();
  CHECK(order == "a1 ");
  loop.run();
  CHECK(order == "a1 b1 a2 ");
  // A stop from before lets the turn through.
  loop.stop();
  loop.run();
  CHECK(order == "a1 b1 a2 b2 a3 b3 ");
  CHECK(loop.run_once() == 0);
}

TEST_CASE("a turn that tells what was left takes no new events, so that it too has at most 256") {
  coir::loop loop;
  const folder in;
  make(in / "f");
  int events = 0;
  auto d = loop.watch_path(in / "f", fs_mask::open | fs_mask::close_nowrite, [&] {
    if (++events == 10) loop.stop();
  });
  for (int i = 0; i < 300; ++i) opened(in / "f", O_RDONLY | O_CLOEXEC);
  loop.run_once();
  CHECK(events == 10);
  loop.run_once();
  CHECK(events == 256);
  loop.run_once();
  CHECK(events == 512);
  drain(loop);
  CHECK(events == 600);
}

TEST_CASE("an exception at the very last event leaves nothing for the next turn") {
  coir::loop loop;
  const folder in;
  auto d = loop.watch_path(in.path, names, [&] { throw std::runtime_error("only"); });
  make(in / "1");
  CHECK_THROWS_WITH(loop.run_once(), "only");
  CHECK(loop.run_once() == 0);
}

TEST_CASE("a registration that ended while events were left hears none of them, and the others do") {
  coir::loop loop;
  const folder in;
  std::string order;
  auto a = loop.watch_path(in.path, names, [&] {
    order += "a ";
    loop.stop();
  });
  auto b = loop.watch_path(in.path, names, [&] { order += "b "; });
  auto c = loop.watch_path(in.path, names, [&] { order += "c "; });
  make(in / "1");
  loop.run_once();
  CHECK(order == "a ");
  // It is the one to be told next.
  b.reset();
  std::vector<coir::owned<coir::path_watch>> more;
  for (int i = 0; i < 40; ++i) more.push_back(loop.watch_path(in.path, names, [&] { order += "new "; }));
  loop.run_once();
  CHECK(order == "a c ");
}

TEST_CASE("all that ended while events were left take them along, and the loop has nothing to do") {
  coir::loop loop;
  const folder in;
  auto a = loop.watch_path(in.path, names, [&] { loop.stop(); });
  for (const char* name : {"1", "2", "3"}) make(in / name);
  loop.run_once();
  a.reset();
  CHECK(loop.run_once() == 0);
  loop.run();
}

TEST_CASE("a file that is gone is told to the rest of its registrations by the run after an exception") {
  coir::loop loop;
  const folder in;
  make(in / "f");
  texts log;
  auto a = loop.watch_path(in / "f", fs_mask::modify, [&] { throw std::runtime_error("gone"); });
  auto b = loop.watch_path(in / "f", fs_mask::modify, to(log));
  auto c = loop.watch_path(in / "f", fs_mask::modify, to(log));
  REQUIRE(::unlink((in / "f").c_str()) == 0);
  CHECK_THROWS_WITH(loop.run_once(), "gone");
  CHECK_FALSE(a);
  CHECK(b);
  b.reset();
  loop.run();
  CHECK(log == texts{"gone"});
  CHECK_FALSE(c);
}

TEST_CASE("an overflow of the kernel's queue is told to every path, and what happens afterwards is told again") {
  coir::loop loop;
  const folder in;
  make(in / "f");
  REQUIRE(::mkdir((in / "d").c_str(), 0700) == 0);
  std::size_t longest = 0;
  std::ifstream("/proc/sys/fs/inotify/max_queued_events") >> longest;
  REQUIRE(longest > 0);
  std::size_t events = 0;
  std::string overflows;
  const auto note = [&](const char* who) {
    return [&, who](fs_event e) {
      ++events;
      if (!e.is(fs_mask::overflow)) return;
      overflows += who;
      CHECK(e.name.empty());
    };
  };
  auto a = loop.watch_path(in / "f", fs_mask::open | fs_mask::close_nowrite, note("a"));
  auto b = loop.watch_path(in / "d", fs_mask::create, note("b"));
  auto c = loop.watch_path(in.path, fs_mask::create, note("c"));
  auto d = loop.watch_path(in / "f", fs_mask::modify, note("d"));
  b.reset();
  b = loop.watch_path(in / "d", fs_mask::create, note("b"));
  for (std::size_t i = 0; i <= longest / 2; ++i) opened(in / "f", O_RDONLY | O_CLOEXEC);
  drain(loop);
  CHECK(overflows == "acdb");
  // Of the kernel's places one had gone to the word of b's first end.
  CHECK(events >= longest + 2);
  CHECK(events <= longest + 4);
  events = 0;
  make(in / "d/1");
  make(in / "2");
  opened(in / "f", O_RDONLY | O_CLOEXEC);
  drain(loop);
  CHECK(events == 4);
  CHECK(overflows == "acdb");
}

TEST_CASE("what cannot be watched is refused with its path, and leaves nothing behind") {
  support::leaves_no_descriptor([] {
    coir::loop loop;
    const folder in;
    make(in / "f");
    const auto code_of = [&](const std::string& path) {
      try {
        auto d = loop.watch_path(path, names, [] {});
      } catch (const std::system_error& error) {
        CHECK_THAT(error.what(), Contains("\"" + path + "\""));
        return error.code();
      }
      return std::error_code();
    };
    CHECK(code_of(in / "none") == std::errc::no_such_file_or_directory);
    CHECK(code_of("") == std::errc::no_such_file_or_directory);
    CHECK(code_of(in / "f/x") == std::errc::not_a_directory);
    CHECK(code_of(in / std::string(300, 'x')) == std::errc::filename_too_long);
    CHECK(inotify_now().watches == 0);
    CHECK(loop.census().paths == 0);
    CHECK_FALSE(loop.can_wake());

    auto good = loop.watch_path(in.path, names, [] {});
    CHECK(code_of(in / "none") == std::errc::no_such_file_or_directory);
    CHECK(inotify_now().watches == 1);
    CHECK(loop.census().paths == 1);
  });
}

TEST_CASE("a mask without anything, or with what cannot be asked for, is refused before the kernel is asked") {
  coir::loop loop;
  const folder in;
  for (const fs_mask mask : {fs_mask::none, fs_mask::gone, fs_mask::overflow, fs_mask::create | fs_mask::gone,
                             ~fs_mask::none, static_cast<fs_mask>(IN_ONESHOT | IN_CREATE)}) {
    INFO(static_cast<std::uint32_t>(mask));
    const std::string text =
        text_of<std::invalid_argument>([&] { auto d = loop.watch_path(in.path, mask, [] {}); });
    CHECK_THAT(text, Contains(in.path) && Contains("fs_mask::all"));
  }
  CHECK_THROWS_AS(static_cast<void>(loop.watch_path(in.path + "\0/x"s, names, [] {})), std::invalid_argument);
  CHECK_THROWS_AS(static_cast<void>(loop.watch_path(in.path, names, nullptr)), std::logic_error);
  CHECK(inotify_now().descriptors == 0);
  CHECK(loop.census().paths == 0);
}

TEST_CASE("without a descriptor left the error names the limit, and the path can be watched afterwards") {
  coir::loop loop;
  const folder in;
  auto more = loop.after(1h, [] {});
  auto warm = loop.waker([] {});
  std::string text;
  {
    const support::descriptor_limit limit(0);
    text = text_of<std::system_error>([&] { auto d = loop.watch_path(in.path, names, [] {}); });
  }
  CHECK_THAT(text, Contains("/proc/sys/fs/inotify/max_user_instances"));
  std::string seen;
  auto d = loop.watch_path(in.path, names, names_to(seen));
  make(in / "a");
  drain(loop);
  CHECK(seen == "a ");
}

TEST_CASE("a user who may not read a directory, or has no watch or instance left, is told so") {
  const folder in;
  REQUIRE(::mkdir((in / "closed").c_str(), 0) == 0);
  const auto no_access = support::in_child([&] {
    if (::geteuid() == 0 && (::chmod(in.path.c_str(), 0755) != 0 || ::seteuid(65534) != 0)) {
      return say("not allowed");
    }
    coir::loop loop;
    say(text_of<std::system_error>([&] { auto d = loop.watch_path(in / "closed", names, [] {}); }));
  });
  if (no_access.text != "not allowed\n") {
    CHECK_THAT(no_access.text, Contains(in / "closed") && Contains("Permission denied"));
  }
  // Limits of its own, in a user namespace.
  const auto limited = support::in_child([&] {
    const auto limit = [](const char* name, const char* to) {
      std::ofstream file("/proc/sys/user/"s + name);
      return static_cast<bool>(file << to << std::flush);
    };
    if (::unshare(CLONE_NEWUSER) != 0 || !limit("max_inotify_watches", "1")) return say("not allowed");
    std::optional<coir::loop> loop(std::in_place);
    auto first = loop->watch_path("/", names, [] {});
    auto same = loop->watch_path("/.", names, [] {});
    say(text_of<std::system_error>([&] { auto d = loop->watch_path("/proc", names, [] {}); }));
    if (inotify_now().watches != 1) say("watches");
    if (!limit("max_inotify_instances", "1")) return say("not limited");
    coir::loop other;
    say(text_of<std::system_error>([&] { auto d = other.watch_path("/", names, [] {}); }));
    loop.reset();
    auto d = other.watch_path("/proc", names, [] {});
  });
  CHECK(limited.exit_code == 0);
  if (limited.text == "not allowed\n") return;
  CHECK_THAT(limited.text, Contains("\"/proc\"") && Contains("/proc/sys/fs/inotify/max_user_watches") &&
                               Contains("/proc/sys/fs/inotify/max_user_instances") &&
                               !Contains("not refused"));
}

TEST_CASE("two loops watch one path, each with a descriptor of its own") {
  coir::loop one, other;
  const folder in;
  std::string first, second;
  auto a = one.watch_path(in.path, names, names_to(first));
  auto b = other.watch_path(in.path, names, names_to(second));
  CHECK(inotify_now().descriptors == 2);
  make(in / "x");
  drain(one);
  CHECK(first == "x ");
  CHECK(second.empty());
  a.reset();
  drain(other);
  CHECK(second == "x ");
}

TEST_CASE("a kept path is watched as long as the loop lives") {
  support::leaves_no_descriptor([] {
    const folder in;
    std::string seen;
    std::optional<coir::loop> loop(std::in_place);
    loop->watch_path(in.path, names, names_to(seen)).keep();
    make(in / "x");
    drain(*loop);
    CHECK(seen == "x ");
    loop.reset();
  });
}

TEST_CASE("a loop that ends takes its paths along, and leaves their handles inert") {
  support::leaves_no_descriptor([] {
    const folder in;
    std::optional<coir::loop> loop(std::in_place);
    int calls = 0;
    auto a = loop->watch_path(in.path, names, [&] { ++calls; });
    auto b = loop->watch_path("/", names, [&] { ++calls; });
    make(in / "x");
    loop.reset();
    CHECK_FALSE(a);
    CHECK_FALSE(b);
    a->cancel();
    CHECK(a->path() == in.path);
    CHECK(calls == 0);
  });
}

TEST_CASE("a path is counted and named while it is watched, and the loop's part in it is not") {
  coir::loop loop;
  const folder in;
  auto d = loop.watch_path(in.path, names, [] {});
  CHECK(d->mask() == names);
  CHECK(loop.census().paths == 1);
  CHECK(loop.census().watchers == 0);
  REQUIRE(loop.why_alive().size() == 1);
  CHECK_THAT(loop.why_alive().front(), Contains(in.path));
  d.reset();
  CHECK(loop.why_alive().empty());
  CHECK_FALSE(loop.can_wake());
}

TEST_CASE("a foreign loop sees what happens to a path, and what a stop has left") {
  coir::loop loop;
  const folder in;
  pollfd shown{loop.pollable_fd(), POLLIN, 0};
  std::string seen;
  auto d = loop.watch_path(in.path, names, [&](fs_event e) {
    seen += e.name;
    loop.stop();
  });
  while (::poll(&shown, 1, 0) != 0) loop.run_once();
  make(in / "1");
  make(in / "2");
  REQUIRE(::poll(&shown, 1, -1) == 1);
  while (seen.empty()) loop.run_once();
  CHECK(seen == "1");
  REQUIRE(::poll(&shown, 1, -1) == 1);
  while (seen.size() < 2) loop.run_once();
  CHECK(seen == "12");
}

TEST_CASE("a path is watched on its loop's thread only") {
  coir::loop loop;
  loop.run_once();
  std::string text;
  std::thread other([&] { text = text_of<std::logic_error>([&] { auto d = loop.watch_path("/", names, [] {}); }); });
  other.join();
  CHECK_THAT(text, Contains("another thread"));
  CHECK(loop.census().paths == 0);
}

TEST_CASE("ten thousand registrations, made and ended, leave no watch, no memory and no descriptor") {
  support::leaves_no_descriptor([] {
    coir::loop loop;
    const folder in;
    make(in / "f");
    int calls = 0;
    auto other = loop.watch_path(in.path, fs_mask::attributes, [&] { ++calls; });
    const auto cycle = [&](int i) {
      auto d = loop.watch_path(i % 2 == 0 ? in.path : in / "f", fs_mask::modify, [&] { ++calls; });
      if (i % 100 == 0) loop.run_once();
    };
    cycle(0);
    const long before = support::heap.blocks;
    for (int i = 0; i < 10'000; ++i) cycle(i);
    CHECK(support::heap.blocks == before);
    CHECK(inotify_now().watches == 1);
    drain(loop);
    CHECK(calls == 0);
    for (int i = 0; i < 20; ++i) {
      other.reset();
      CHECK(inotify_now().watches == 0);
      CHECK(inotify_now().descriptors == 1);
      other = loop.watch_path(in.path, fs_mask::attributes, [&] { ++calls; });
    }
  });
}

TEST_CASE("a subscriber of its own is told without an allocation, and may destroy itself") {
  struct waiting final : coir::path_subscriber {
    waiting(coir::loop& on, const std::string& path, std::unique_ptr<waiting>* mine, std::string& log)
        : home(mine), told(log) {
      subscribe(on, path.c_str(), fs_mask::create);
    }
    ~waiting() override { unsubscribe(); }
    void tell(const fs_event& event) override {
      told += event.name;
      if (event.name == "2") home->reset();
    }
    std::unique_ptr<waiting>* home;
    std::string& told;
  };
  coir::loop loop;
  const folder in;
  std::string log;
  auto keeps_it_open = loop.watch_path("/", names, [] {});
  std::unique_ptr<waiting> first;
  first = std::make_unique<waiting>(loop, in.path, &first, log);
  make(in / "1");
  drain(loop);
  make(in / "2");
  make(in / "3");
  const long before = support::heap.allocations;
  loop.run_once();
  CHECK(support::heap.allocations == before);
  CHECK(log == "12");
  CHECK(first == nullptr);
  CHECK(inotify_now().watches == 1);
}

TEST_CASE("a child that ends the paths it inherited, or the loop, ends nothing of its parent's") {
  for (const bool whole_loop : {false, true}) {
    INFO("whole loop: " << whole_loop);
    const folder in;
    std::optional<coir::loop> loop(std::in_place);
    std::string seen;
    auto d = loop->watch_path(in.path, names, names_to(seen));
    auto e = loop->watch_path("/", names, [] {});
    make(in / "1");
    const auto child = support::in_child([&] {
      if (inotify_now().descriptors != 0) say("it has the descriptor");
      if (whole_loop) loop.reset();
      d.reset();
      e.reset();
      coir::loop own;
      std::string mine;
      auto its = own.watch_path(in.path, names, names_to(mine));
      make(in / "2");
      drain(own);
      say(mine);
    });
    CHECK(child.exit_code == 0);
    CHECK(child.text == "2 \n");
    CHECK(inotify_now().watches == 2);
    make(in / "3");
    drain(*loop);
    CHECK(seen == "1 2 3 ");
  }
}

TEST_CASE("a child cannot watch a path on its parent's loop") {
  coir::loop loop;
  auto d = loop.watch_path("/", names, [] {});
  const auto child = support::in_child([&] { auto e = loop.watch_path("/tmp", names, [] {}); });
  CHECK(child.exit_code == 1);
  CHECK_THAT(child.text, Contains("child process"));
  CHECK(inotify_now().watches == 1);
}

TEST_CASE("a child that was forked while events were told is told none of the rest") {
  // All of it in a child, which keeps the one that comes back away from the test program.
  const folder in;
  const auto outer = support::in_child([&] {
    coir::loop loop;
    pid_t child = -1;
    std::string heard;
    auto d = loop.watch_path(in.path, names, [&](fs_event e) {
      heard += e.name;
      if (child < 0) child = ::fork();
    });
    make(in / "1");
    make(in / "2");
    try {
      loop.run_once();
    } catch (const std::logic_error&) {
      if (child == 0 && heard == "1") ::_exit(7);
    }
    if (child == 0) ::_exit(1);
    int status = 0;
    while (::waitpid(child, &status, 0) < 0) {
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 7 && heard == "12") say("both as they should");
  });
  CHECK(outer.text == "both as they should\n");
}

TEST_CASE("a loop keeps its descriptor when its last path ends, for the next, and has nothing to wait for") {
  coir::loop loop;
  const folder in;
  std::string seen;
  for (int i = 0; i < 5; ++i) {
    auto d = loop.watch_path(in.path, names, names_to(seen));
    // Some of what is left over is in the kernel's queue, some was read.
    if (i % 2 == 0) {
      auto stops = loop.watch_path(in.path, names, [&] { loop.stop(); });
      make(in / "x" + std::to_string(i));
      make(in / "y" + std::to_string(i));
      loop.run_once();
    }
    make(in / "z" + std::to_string(i));
    d.reset();
    CHECK(inotify_now().descriptors == 1);
    CHECK(inotify_now().watches == 0);
    CHECK_FALSE(loop.can_wake());
    make(in / "between" + std::to_string(i));
    const std::uint64_t before = loop.stats().watchers.events;
    loop.run();
    support::idle_turns(loop);
    CHECK(loop.stats().watchers.events == before);
  }
  CHECK(seen == "x0 x2 x4 ");
  auto d = loop.watch_path(in.path, names, names_to(seen));
  CHECK(loop.can_wake());
  make(in / "last");
  drain(loop);
  CHECK(seen == "x0 x2 x4 last ");
}

TEST_CASE("a subscriber that is there when the loop ends hears no more, and may subscribe elsewhere") {
  struct waiting final : coir::path_subscriber {
    ~waiting() override { unsubscribe(); }
    void tell(const fs_event&) override { ++calls; }
    using path_subscriber::subscribe;
    using path_subscriber::subscribed;
    int calls = 0;
  };
  const folder in;
  waiting one;
  {
    coir::loop loop;
    one.subscribe(loop, in.path.c_str(), names);
  }
  CHECK_FALSE(one.subscribed());
  coir::loop next;
  one.subscribe(next, in.path.c_str(), names);
  make(in / "a");
  drain(next);
  CHECK(one.calls == 1);
}
