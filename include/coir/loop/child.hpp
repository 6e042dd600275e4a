// coir/loop/child.hpp: the end of a process, called back.
//
//   auto end = loop.child_exit(pid, [&](coir::child_status s) { codes.push_back(s.exit_code); });
//   end->send_signal(SIGTERM);                                    [tests/loop/child_test.cpp]
//
// By a descriptor of the process (pidfd_open(2)): without SIGCHLD, without polling, and a number that is
// given to another process does no harm.
//
// Shape    a registration that ends itself before its one call. By default the child is reaped (waitpid(2)
//          and the like find it no more); reap::no only looks, and goes for any process.
// Order    one that is over already is told of in the next turn. Several of one loop for one child: each
//          hears the status, also where another of them reaps.
// Status   unknown where there is nobody to ask: not a child of this process, reaped by somebody else
//          meanwhile, or SIGCHLD is ignored, so that the kernel reaps.
// Thread   the loop's; the child may be that of any thread of the process.
// Cancel   the process goes on, and is not reaped. Nothing here kills.
// Errors   std::invalid_argument for a pid below 1; std::system_error: ESRCH when there is no such process,
//          ECHILD when it is to be reaped and is no child of ours, EEXIST for a second that reaps, EMFILE. What a
//          callback throws leaves run(); the other children's come in the next run.
// Cost     a descriptor each. Registering is four system calls, an end is three.
// See      coir/loop/registration.hpp
#pragma once

#include <coir/base/callback.hpp>
#include <coir/base/fd.hpp>
#include <coir/loop/registration.hpp>
#include <coir/loop/watcher.hpp>

#include <sys/types.h>

#include <cstdint>
#include <string>

namespace coir {

enum class reap : bool { no, yes };

struct child_status {
  pid_t pid = 0;
  bool known = false;
  bool exited = false;  // by itself, and not by a signal
  int exit_code = 0;
  int signal = 0;  // what it died of
  bool core_dumped = false;

  // It is known to have exited with 0.
  bool succeeded() const noexcept { return known && exited && exit_code == 0; }
  // As waitpid(2) has it.
  int raw() const noexcept { return exited ? exit_code << 8 : signal | (core_dumped ? 0x80 : 0); }
};

class child_watch final : public registration {
 public:
  pid_t pid() const noexcept { return status_.pid; }
  // ESRCH when it is over, whoever has the number then.
  void send_signal(int number);

  std::string describe() const override;

 private:
  friend class loop;
  friend class child_table;
  child_watch(loop& of, pid_t pid, callback<const child_status&>&& then, reap how);
  ~child_watch() override = default;
  void leave() noexcept override;
  void drop() noexcept override { then_ = nullptr; }
  void on_readable();
  int ask(int options) noexcept;
  void look() noexcept;
  bool can_reap() noexcept;

  unique_fd pidfd_;
  owned<watcher> part_;
  callback<const child_status&> then_;
  child_status status_;
  reap how_;
  bool over_ = false;
};

}  // namespace coir
