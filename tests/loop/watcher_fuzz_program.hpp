// A random program over watchers: what it decides, and the journal of what came of it. Whoever plays it
// (coir, or the plain reference) is a subject.
#pragma once

#include "watcher_fuzz_world.hpp"

#include <fmt/format.h>

#include <cstdio>
#include <stdexcept>
#include <string>

namespace tests::fuzz {

enum class kind : std::uint8_t { error, read, write };

struct wishes {
  bool read, write, error, edge, oneshot, replace, kept;
};

// What somebody sees of a watcher.
struct view {
  bool listens, reads, writes;
};

constexpr int misuse = -1;  // beside the numbers of errno

// One line of the journal.
struct record {
  char what;       // 'c'alled, 'o'utcome, 't'urn over, 'i'dle
  int where = 0;   // the place
  int which = 0;   // the registration
  int result = 0;  // the callback's kind, an errno, what is left
  std::uint32_t seen = 0;  // the views of all places
  bool operator==(const record&) const = default;
};

inline std::string text_of(const record& of) {
  return fmt::format("{} place {} registration {} result {} seen {:06x}", of.what, of.where, of.which,
                     of.result, of.seen);
}

struct mismatch : std::runtime_error {
  using runtime_error::runtime_error;
};
// What a callback throws because the program says so.
struct scripted {};

// Written by the first who plays, followed by the second.
class journal {
 public:
  void rewind() {
    at_ = 0;
    following_ = true;
  }
  void note(const record& what) {
    if (!following_) {
      lines_.push_back(what);
      return;
    }
    const record* const theirs = next();
    if (theirs == nullptr || *theirs != what) differs("the reference has: " + text_of(what));
    ++at_;
  }
  // What the other one wrote here.
  const record* next() const { return following_ && at_ < lines_.size() ? &lines_[at_] : nullptr; }
  [[noreturn]] void differs(const std::string& why) const {
    std::string text = why + "\nline " + std::to_string(at_) + " of the journal, and those before it:";
    for (std::size_t i = at_ < 12 ? 0 : at_ - 12; i <= at_ && i < lines_.size(); ++i) {
      text += "\n  " + text_of(lines_[i]);
    }
    throw mismatch(text);
  }
  const std::vector<record>& lines() const { return lines_; }

 private:
  std::vector<record> lines_;
  std::size_t at_ = 0;
  bool following_ = false;
};

class player;

class subject {
 public:
  virtual ~subject() = default;
  virtual void begin_turn(unsigned turn) = 0;
  // Calls the player's happened(); throws what that throws.
  virtual void turn(bool naps) = 0;
  // An errno, misuse, or 0.
  virtual int watch(unsigned place, int number, const wishes& how, int id) = 0;
  virtual int enable(unsigned place, kind direction) = 0;
  virtual void disable(unsigned place, kind direction) = 0;
  virtual int rearm(unsigned place) = 0;
  virtual void end(unsigned place, int number, unsigned way) = 0;
  // Uses the handle of one that has ended.
  virtual int use_former(unsigned place, unsigned way) = 0;
  virtual void stop() = 0;
  virtual view look(unsigned place) const = 0;
  virtual bool can_wake() const = 0;
  virtual std::size_t count() const = 0;
  // When nobody wants to hear anything: how many events come all the same, turn by turn.
  virtual int idle_events() = 0;
};

class player {
 public:
  player(std::uint64_t seed, journal& into, bool tells)
      : seed_(seed),
        tells_(tells),
        setting_{seed, 1},
        turns_(8 + setting_.below(20)),
        request_(setting_.below(4)),
        gentle_(setting_.one_in(3)),
        world_(setting_, 2 + setting_.below(world::places_max - 1)),
        journal_(into),
        seats_(world_.count()) {}

  // Half of the programs have a request in flight all the time, a quarter has one meanwhile.
  bool has_request(unsigned turn) const { return request_ < 2 || (request_ == 2 && turn % 8 > 3); }
  // No number ever gets another open file: the kernel's set has no reason to be made anew.
  bool is_gentle() const { return gentle_; }
  unsigned places() const { return world_.count(); }
  int number(unsigned place) const { return world_.number(place); }
  // The number still has the open file that it had when it was registered.
  bool is_moored(unsigned place) const { return seats_[place].moored; }
  journal& notes() { return journal_; }
  void tell(const std::string& what) const {
    if (tells_) fmt::print(stderr, "{}\n", what);
  }

  void play(subject& on) {
    on_ = &on;
    for (turn_ = 0; turn_ < turns_; ++turn_) {
      tell(fmt::format("turn {}", turn_));
      on.begin_turn(turn_);
      dice random{seed_, 2, turn_};
      if (turn_ == 0) begin(random);
      for (unsigned left = 1 + random.below(3); left != 0; --left) act(random, nobody);
      calls_ = {};
      try {
        on.turn(random.one_in(4));
      } catch (const scripted&) {
        tell("  thrown");
      }
      journal_.note({'t', static_cast<int>(on.count()), watched(), sure() ? on.can_wake() : 0, seen()});
    }
    for (unsigned at = 0; at < places(); ++at) {
      if (seats_[at].watched && !seats_[at].has_error) {
        on.disable(at, kind::read);
        on.disable(at, kind::write);
      } else {
        on.end(at, world_.number(at), 0);
        seats_[at].watched = false;
      }
    }
    tell("nothing is wanted any more");
    journal_.note({.what = 'i', .result = on.idle_events()});
    for (unsigned at = 0; at < places(); ++at) {
      on.end(at, world_.number(at), 0);
      seats_[at].watched = false;
    }
    tell("nothing is watched any more");
    journal_.note({.what = 'i', .result = on.idle_events()});
  }

  void happened(unsigned place, int id, kind what) {
    tell(fmt::format("  called: place {} registration {} {}", place, id, static_cast<int>(what)));
    journal_.note({'c', static_cast<int>(place), id, static_cast<int>(what), seen()});
    std::uint64_t& before = calls_[place][static_cast<unsigned>(what)];
    dice random{seed_, 3, turn_, place, static_cast<std::uint64_t>(what), before++};
    if (random.one_in(2)) natural(what, place, random);
    for (unsigned left = random.below(gentle_ ? 2 : 4); left != 0; --left) {
      act(random, static_cast<int>(place));
    }
    const unsigned last = random.below(gentle_ ? 12 : 24);
    if (last == 0) {
      tell("  throws");
      throw scripted();
    }
    if (last == 1) {
      tell("  stops");
      on_->stop();
    }
  }

  // Listening, reading and writing: a bit each, for places whose watcher still has its descriptor.
  std::uint32_t seen() const {
    std::uint32_t all = 0;
    for (unsigned at = 0; at < places(); ++at) {
      if (!seats_[at].watched || !seats_[at].moored) continue;
      const view now = on_->look(at);
      all |= static_cast<std::uint32_t>(now.listens) << at;
      all |= static_cast<std::uint32_t>(now.reads) << (8 + at);
      all |= static_cast<std::uint32_t>(now.writes) << (16 + at);
    }
    return all;
  }

 private:
  static constexpr int nobody = -1;
  struct seat {
    int id = 0;
    bool watched = false;
    bool moored = false;
    bool has_error = false;
  };

  int watched() const {
    int all = 0;
    for (const seat& each : seats_) all += each.watched;
    return all;
  }
  // Every watcher still has its descriptor.
  bool sure() const {
    return request_ == 3 &&
           std::none_of(seats_.begin(), seats_.end(),
                        [](const seat& each) { return each.watched && !each.moored; });
  }

  void begin(dice& random) {
    const bool duplicates = random.one_in(2);
    for (unsigned at = 0; at < places(); ++at) {
      if (!random.one_in(6)) watch(at, random);
      if (duplicates) perform(deed::duplicate, at, random);
    }
  }

  void perform(deed what, unsigned at, dice& random) {
    if (changes_number(what) && random.one_in(2)) end(at, random);
    const bool done = world_.perform(what, at, random);
    tell(fmt::format("  {} place {}{}", name_of(what), at, done ? "" : ": nothing"));
    if (!done || !changes_number(what)) return;
    seats_[at].moored = false;
    // An entry of an earlier life may be of this very open file: nobody could tell whose it is.
    if (gets_used_file(what)) end(at, random);
  }

  // What a callback is there for.
  void natural(kind what, unsigned at, dice& random) {
    const unsigned choice = random.below(6);
    switch (what) {
      case kind::read:
        if (choice == 0) return disable(at, kind::read);
        return perform(choice < 4 ? deed::drain : deed::read_some, at, random);
      case kind::write:
        if (choice == 0) return disable(at, kind::write);
        return perform(choice < 3 ? deed::write_some : deed::fill, at, random);
      case kind::error:
        if (choice < 4) end(at, random);
        return;
    }
  }

  void act(dice& random, int self) {
    const bool itself = self != nobody && random.one_in(2);
    const unsigned at = itself ? static_cast<unsigned>(self) : random.below(places());
    const seat& here = seats_[at];
    switch (random.below(12)) {
      case 0:
      case 1: return watch(at, random);
      case 2: return end(at, random);
      case 3: return enable(at, random.one_in(2) ? kind::read : kind::write);
      case 4: return disable(at, random.one_in(2) ? kind::read : kind::write);
      case 5:
        if (!here.watched || !here.moored) return;
        tell(fmt::format("  rearm place {}", at));
        return outcome(at, on_->rearm(at));
      case 6: {
        const unsigned way = random.below(4);
        return outcome(at, on_->use_former(at, way));
      }
      default:
        if (!here.watched && !random.one_in(4)) return watch(at, random);
        if (random.one_in(4)) return perform(deed::feed, at, random);
        if (random.one_in(4)) return perform(deed::drain_peer, at, random);
        return perform(static_cast<deed>(random.below(gentle_ ? gentle_deeds : deeds)), at, random);
    }
  }

  void watch(unsigned at, dice& random) {
    const unsigned callbacks = random.one_in(20) ? 0 : 1 + random.below(7);
    const wishes how{
        .read = (callbacks & 1) != 0,
        .write = (callbacks & 2) != 0,
        .error = (callbacks & 4) != 0,
        .edge = random.one_in(3),
        .oneshot = random.one_in(3),
        .replace = random.one_in(2),
        .kept = random.one_in(4),
    };
    seat& here = seats_[at];
    const int id = ++ids_;
    const int result = on_->watch(at, world_.number(at), how, id);
    tell(fmt::format("  watch place {} as {}:{}{}{}{}{}{}, {}", at, id, how.read ? " read" : "",
                     how.write ? " write" : "", how.error ? " error" : "", how.edge ? " edge" : "",
                     how.oneshot ? " oneshot" : "", how.replace ? " replace" : "", result));
    if (result == 0) here = {id, true, true, how.error};
    outcome(at, result);
  }
  void end(unsigned at, dice& random) {
    const unsigned way = random.below(3);
    tell(fmt::format("  end place {}", at));
    seats_[at].watched = false;
    on_->end(at, world_.number(at), way);
  }
  // One whose number was closed and used again may only be ended or replaced: what else it does is open.
  void enable(unsigned at, kind direction) {
    if (!seats_[at].watched || !seats_[at].moored) return;
    tell(fmt::format("  enable place {} {}", at, static_cast<int>(direction)));
    outcome(at, on_->enable(at, direction));
  }
  void disable(unsigned at, kind direction) {
    if (!seats_[at].watched || !seats_[at].moored) return;
    tell(fmt::format("  disable place {} {}", at, static_cast<int>(direction)));
    on_->disable(at, direction);
  }
  void outcome(unsigned at, int result) {
    journal_.note({'o', static_cast<int>(at), seats_[at].id, result, seen()});
  }

  std::uint64_t seed_;
  bool tells_;
  dice setting_;
  unsigned turns_;
  unsigned request_;
  bool gentle_;
  world world_;
  journal& journal_;
  std::vector<seat> seats_;
  subject* on_ = nullptr;
  unsigned turn_ = 0;
  int ids_ = 0;
  std::array<std::array<std::uint64_t, 3>, world::places_max> calls_{};
};

}  // namespace tests::fuzz
