// Random programs of nurseries, scopes, limits, shields, cleanups, sleeps, channels, failures and fibers that move, and what
// must become of them.
//
// A program is a tree. All its times are drawn from so wide a range that no two things happen at once unless one
// causes the other, and who cancels or fails has slept before, so that of several things at one instant each
// follows from the one before. The outcome then follows from the tree alone, whatever the order in which ready
// fibers run.
#pragma once

#include <coir/testing/dice.hpp>

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace structured {

using nanoseconds = std::int64_t;
constexpr nanoseconds never = INT64_MAX;

enum class kind {
  sleep,     // of `time`; with a `limit`, no longer than that
  fail,      // throws its id
  sequence,  // of all inside
  attempt,   // catches what fails inside
  scope,     // cancel_scope: a limit, perhaps a shield, perhaps cancelled by its name
  strict,    // fail_after: throws its id
  nursery,   // its last inner node is the body, the others are children
  spawn,     // a child of the region around
  cancel,    // of the region called `target`
  cleanup,   // with_cleanup: a body, then the cleanup, within `time`; a cleanup that takes longer throws its id
  move,      // of the child `source`, spawned before in the same region, to the nursery called `target`
};

// How a sleep without a limit waits: for time to pass; for a value whose sender sleeps first; or it sleeps itself, and a
// sender waits for it meanwhile. All end at the same time, and nothing of them is left then.
enum class wait { timer, receive, late_receive };

struct node {
  kind what{};
  int id = 0;
  nanoseconds time = 0;   // of a sleep; a region's limit, 0: none
  nanoseconds limit = 0;  // of a sleep, 0: none
  wait through = wait::timer;
  bool shield = false;
  int target = 0;   // of a spawn: where its child is moved later, 0: nowhere
  int source = 0;
  bool on_stack = false;  // of a child: which body it has; of other nodes: which surface, where there is a choice
  std::vector<std::unique_ptr<node>> inner;
};

enum class how { ok, cancelled, failed };
struct outcome {
  how what = how::ok;
  int id = 0;  // of what failed
  bool operator==(const outcome&) const = default;
};
struct visit {
  nanoseconds begin = 0;
  nanoseconds end = 0;
  outcome result;
  bool operator==(const visit&) const = default;
};
// Of every node that was reached; and of every fiber, by the id of its spawn (negative), with no times.
using record = std::map<int, visit>;

inline std::string text(const outcome& of) {
  switch (of.what) {
    case how::ok: return "ok";
    case how::cancelled: return "cancelled";
    case how::failed: break;
  }
  return "failed " + std::to_string(of.id);
}

// --- drawing a program ---

class drawing {
 public:
  explicit drawing(std::uint64_t seed) : dice_(seed) {}
  std::unique_ptr<node> program() { return sequence(0); }

 private:
  nanoseconds time() { return 1 + static_cast<nanoseconds>(dice_.below(1'000'000'000'000)); }

  std::unique_ptr<node> make(kind what) {
    auto made = std::make_unique<node>();
    made->what = what;
    made->id = ++ids_;
    made->on_stack = dice_.chance(0.5);
    return made;
  }
  std::unique_ptr<node> sleep() {
    auto made = make(kind::sleep);
    made->time = time();
    if (dice_.chance(0.2)) {
      made->limit = time();
    } else if (dice_.chance(0.4)) {
      made->through = dice_.chance(0.5) ? wait::receive : wait::late_receive;
    }
    return made;
  }
  // A child begins by waiting: what it does then happens at a time of its own.
  std::unique_ptr<node> child(int depth) {
    auto made = sequence(depth);
    made->inner.insert(made->inner.begin(), sleep());
    return made;
  }
  std::unique_ptr<node> sequence(int depth) {
    auto made = make(kind::sequence);
    const std::uint64_t count = 1 + dice_.below(4);
    std::vector<std::unique_ptr<node>> moves;
    for (std::uint64_t i = 0; i < count; ++i) {
      made->inner.push_back(any(depth));
      const node& last = *made->inner.back();
      if (last.what != kind::spawn || last.target == 0) continue;
      auto move = make(kind::move);
      move->source = last.inner[0]->id;
      move->target = last.target;
      // Before it has begun, or at a time of its own.
      if (dice_.chance(0.3)) {
        made->inner.push_back(std::move(move));
      } else {
        moves.push_back(surrounded(std::move(move)));
      }
    }
    for (auto& each : moves) made->inner.push_back(std::move(each));
    // What was spawned gets to run before the region is left.
    if (made->inner.back()->what != kind::sleep) made->inner.push_back(sleep());
    return made;
  }
  // Something that others feel, at a time of its own.
  std::unique_ptr<node> surrounded(std::unique_ptr<node> what) {
    auto made = make(kind::sequence);
    made->inner.push_back(sleep());
    made->inner.push_back(std::move(what));
    made->inner.push_back(sleep());
    return made;
  }
  std::unique_ptr<node> any(int depth) {
    if (depth >= 5 || ids_ > 60) return sleep();
    switch (dice_.below(14)) {
      case 0:
        if (dice_.chance(0.4)) return surrounded(make(kind::fail));
        return sleep();
      case 1: {
        auto made = make(kind::attempt);
        made->inner.push_back(sequence(depth + 1));
        return made;
      }
      case 2:
      case 3: {
        auto made = make(kind::scope);
        made->shield = dice_.chance(0.3);
        if (made->shield || dice_.chance(0.6)) made->time = time();
        named_.push_back(made->id);
        made->inner.push_back(sequence(depth + 1));
        named_.pop_back();
        return made;
      }
      case 4: {
        auto made = make(kind::strict);
        made->time = time();
        made->inner.push_back(sequence(depth + 1));
        return made;
      }
      case 5:
      case 6: {
        auto made = make(kind::nursery);
        named_.push_back(made->id);
        nurseries_.insert(made->id);
        const std::uint64_t children = dice_.below(4);
        for (std::uint64_t i = 0; i < children; ++i) made->inner.push_back(child(depth + 1));
        made->inner.push_back(sequence(depth + 1));
        named_.pop_back();
        return made;
      }
      case 7:
      case 8: {
        auto made = make(kind::spawn);
        std::vector<int> around = named_;
        if (dice_.chance(0.5)) {
          std::erase_if(around, [&](int id) { return !nurseries_.contains(id); });
          if (!around.empty()) made->target = around[dice_.below(around.size())];
          around = named_;
          // What is inside of there may be over before it is.
          if (made->target != 0) named_.erase(std::find(named_.begin(), named_.end(), made->target) + 1, named_.end());
        }
        made->inner.push_back(child(depth + 1));
        named_ = std::move(around);
        return made;
      }
      case 9: {
        if (named_.empty()) return sleep();
        auto made = make(kind::cancel);
        made->target = named_[dice_.below(named_.size())];
        return surrounded(std::move(made));
      }
      case 10: {
        auto made = make(kind::cleanup);
        made->time = time();
        made->inner.push_back(sequence(depth + 1));
        made->inner.push_back(child(depth + 1));
        return made;
      }
      default: return sleep();
    }
  }

  coir::testing::dice dice_;
  int ids_ = 0;
  std::vector<int> named_;  // from the outside in
  std::set<int> nurseries_;
};

// --- what must become of it ---

// A naive reading of the rules: when would the region be cancelled for the first time, if it were not? Then the
// same once more, with that.
class model {
 public:
  static record of(const node& program) {
    record seen;
    const result root = body(program, 0, never, seen);
    seen[0] = {0, root.end, root.how_it_ended};
    for (auto& each : seen) {
      each.second.begin >>= step_bits;
      each.second.end >>= step_bits;
    }
    return seen;
  }

 private:
  // Of what happens at one instant, which is first: times have steps below the nanosecond, one for every node.
  static constexpr int step_bits = 10;
  static nanoseconds later(nanoseconds than, nanoseconds wait) { return ((than >> step_bits) + wait) << step_bits; }

  // Of something inside a region: that this is cancelled, or takes over a child.
  struct request {
    int target;
    nanoseconds at;
    const node* child = nullptr;
    nanoseconds begin = 0;
    bool was_cancelled = false;
  };
  struct result {
    nanoseconds end = 0;
    outcome how_it_ended;
    std::vector<request> requests;
    nanoseconds thrown = never;  // when `cancelled` was
  };
  struct child {
    const node* what;
    nanoseconds begin;
    nanoseconds since = 0;  // in this region
    bool was_cancelled = false;
    nanoseconds until = never;  // ... and then in another
    int target = 0;
  };
  static bool by_then(nanoseconds what, nanoseconds when) { return what >> step_bits <= when >> step_bits; }
  struct region {
    nanoseconds cancelled;  // when what is in it is cancelled
    std::vector<child> children;
  };
  struct failure {
    nanoseconds at;
    int id;
  };

  // A fiber's body: a region of its own.
  static result body(const node& what, nanoseconds begin, nanoseconds cancelled, record& seen) {
    return inside(cancelled, never, 0, seen, nullptr, [&](region& here, record& to) {
      return run(what, begin, here, to);
    }).first;
  }

  // Runs something in a region that is cancelled from outside at `outer` and by itself at `limit`. The second: when it
  // was first asked to be cancelled by something inside or its limit.
  template <class Body>
  static std::pair<result, nanoseconds> inside(nanoseconds outer, nanoseconds limit, int name, record& seen,
                                               bool* lost_child, Body&& run_body) {
    nanoseconds own = limit;
    for (int pass = 0;; ++pass) {
      record pass_seen;
      region here{std::min(outer, own), {}};
      result got = run_body(here, pass_seen);
      const nanoseconds body_end = got.end;
      std::vector<failure> failures;
      if (got.how_it_ended.what == how::failed) failures.push_back({body_end, got.how_it_ended.id});
      nanoseconds first = limit;
      nanoseconds end = body_end;
      bool lost = false;
      // A nursery's children last, unless its body failed.
      const bool is_nursery = lost_child != nullptr;
      const nanoseconds lasting_end = got.how_it_ended.what == how::failed
                                          ? std::min(here.cancelled, body_end)
                                          : here.cancelled;
      for (std::size_t i = 0;; ++i) {
        std::erase_if(got.requests, [&](const request& wish) {
          if (wish.target != name || wish.child == nullptr) return false;
          here.children.push_back({wish.child, wish.begin, wish.at, wish.was_cancelled});
          return true;
        });
        if (i == here.children.size()) break;
        const child each = here.children[i];
        const nanoseconds until =
            std::max(each.since, is_nursery ? lasting_end : std::min(here.cancelled, body_end));
        // Between two steps of one instant nobody else runs.
        const bool never_runs = each.was_cancelled || by_then(until, each.begin);
        if (each.until != never) {
          record unwanted;
          const bool stays = by_then(each.until, each.begin) ? false
                             : never_runs                    ? true
                                          : body(*each.what, each.begin, until, unwanted).end < each.until;
          if (!stays) {
            got.requests.push_back({each.target, each.until, each.what, each.begin, never_runs});
            continue;
          }
        }
        visit& fiber = pass_seen[-each.what->id];
        if (never_runs) {
          fiber = {0, 0, {how::cancelled, 0}};
          lost |= by_then(here.cancelled, std::max(each.begin, each.since));
          continue;
        }
        const result of_child = body(*each.what, each.begin, until, pass_seen);
        pass_seen[-each.what->id] = {0, 0, {of_child.how_it_ended.what, 0}};
        if (of_child.how_it_ended.what == how::failed) failures.push_back({of_child.end, of_child.how_it_ended.id});
        if (of_child.how_it_ended.what == how::cancelled) lost |= by_then(here.cancelled, of_child.end);
        end = std::max(end, of_child.end);
        got.requests.insert(got.requests.end(), of_child.requests.begin(), of_child.requests.end());
      }
      for (const failure& each : failures) first = std::min(first, each.at);
      std::erase_if(got.requests, [&](const request& each) {
        if (each.target != name || name == 0 || each.child != nullptr) return false;
        first = std::min(first, each.at);
        return true;
      });
      if (pass == 0 && first < own) {
        own = first;
        continue;
      }
      got.end = end + 1;
      if (!failures.empty()) {
        const auto earliest = std::min_element(failures.begin(), failures.end(),
                                               [](const failure& a, const failure& b) { return a.at < b.at; });
        got.how_it_ended = {how::failed, earliest->id};
      }
      if (lost_child != nullptr) *lost_child = lost;
      seen.merge(pass_seen);
      return {got, first};
    }
  }

  static result run(const node& what, nanoseconds begin, region& here, record& seen) {
    const result got = run_unseen(what, begin + 1, here, seen);
    seen[what.id] = {begin, got.end, got.how_it_ended};
    return got;
  }

  static result run_unseen(const node& what, nanoseconds begin, region& here, record& seen) {
    switch (what.what) {
      case kind::sleep: {
        const nanoseconds length = what.limit == 0 ? what.time : std::min(what.time, what.limit);
        if (here.cancelled < later(begin, length)) {
          const nanoseconds at = std::max(begin, here.cancelled);
          return {at, {how::cancelled, 0}, {}, at};
        }
        return {later(begin, length), {}, {}};
      }
      case kind::fail: return {begin, {how::failed, what.id}, {}};
      case kind::cancel: return {begin, {}, {{what.target, begin}}};
      case kind::spawn: here.children.push_back({what.inner[0].get(), begin}); return {begin, {}, {}};
      case kind::move:
        for (child& each : here.children) {
          if (each.what->id != what.source) continue;
          each.until = begin;
          each.target = what.target;
        }
        return {begin, {}, {}};
      case kind::cleanup: return cleanup(what, begin, here, seen);
      case kind::sequence: return sequence(what, begin, here, seen);
      case kind::attempt: {
        result got = run(*what.inner[0], begin, here, seen);
        if (got.how_it_ended.what == how::failed) got.how_it_ended = {};
        return got;
      }
      case kind::scope:
      case kind::strict: return scope(what, begin, here, seen);
      case kind::nursery: break;
    }
    return nursery(what, begin, here, seen);
  }

  static result sequence(const node& what, nanoseconds begin, region& here, record& seen) {
    result all{begin, {}, {}};
    for (const auto& each : what.inner) {
      const result got = run(*each, all.end, here, seen);
      all.end = got.end;
      all.how_it_ended = got.how_it_ended;
      all.thrown = got.thrown;
      all.requests.insert(all.requests.end(), got.requests.begin(), got.requests.end());
      if (all.how_it_ended.what != how::ok) break;
    }
    return all;
  }

  // What is cancelled from both sides when it next waits is cancelled from outside.
  static bool is_own(const result& body, nanoseconds outer) {
    return body.how_it_ended.what == how::cancelled && body.thrown < outer;
  }

  static result scope(const node& what, nanoseconds begin, region& here, record& seen) {
    const nanoseconds outer = what.shield ? never : here.cancelled;
    const nanoseconds limit = what.time == 0 ? never : later(begin, what.time);
    auto [got, own] = inside(outer, limit, what.id, seen, nullptr, [&](region& in, record& to) {
      return run(*what.inner[0], begin, in, to);
    });
    if (is_own(got, outer)) {
      got.how_it_ended = what.what == kind::strict ? outcome{how::failed, what.id} : outcome{};
    }
    return got;
  }

  static result cleanup(const node& what, nanoseconds begin, region& here, record& seen) {
    const auto in_region = [&](std::size_t which, nanoseconds from, nanoseconds outer, nanoseconds limit) {
      return inside(outer, limit, 0, seen, nullptr, [&](region& in, record& to) {
        return run(*what.inner[which], from, in, to);
      }).first;
    };
    result both = in_region(0, begin, here.cancelled, never);
    const result second = in_region(1, both.end, never, later(both.end, what.time));
    both.end = second.end;
    both.requests.insert(both.requests.end(), second.requests.begin(), second.requests.end());
    if (both.how_it_ended.what == how::failed) return both;
    if (second.how_it_ended.what == how::failed) {
      both.how_it_ended = second.how_it_ended;
    } else if (second.how_it_ended.what == how::cancelled) {
      both.how_it_ended = {how::failed, what.id};
    }
    return both;
  }

  static result nursery(const node& what, nanoseconds begin, region& here, record& seen) {
    bool lost_child = false;
    auto [got, own] = inside(here.cancelled, never, what.id, seen, &lost_child, [&](region& in, record& to) {
      // One that is cancelled takes no children.
      if (what.inner.size() > 1 && in.cancelled <= begin) return result{begin, {how::cancelled, 0}, {}, begin};
      for (std::size_t i = 0; i + 1 < what.inner.size(); ++i) {
        in.children.push_back({what.inner[i].get(), begin});
      }
      return run(*what.inner.back(), begin, in, to);
    });
    if (is_own(got, here.cancelled)) got.how_it_ended = {};
    // Children that were to come to their end have not.
    if (got.how_it_ended.what == how::ok && lost_child && here.cancelled <= got.end && own > got.end) {
      got.how_it_ended = {how::cancelled, 0};
      got.thrown = got.end;
    }
    return got;
  }
};

}  // namespace structured
