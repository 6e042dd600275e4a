// What include/coir/loop/watcher.hpp says, the plain way: an epoll set for each registration, closed when it
// ends or a oneshot one has fired. So nothing stale can come, whatever duplicates do.
//
// Where the kernel leaves the order open it takes the events in the order of the journal that it follows,
// and complains of what should not have come, and of what should have.
#pragma once

#include "watcher_fuzz_program.hpp"

#include <poll.h>
#include <sys/epoll.h>

#include <utility>

namespace tests::fuzz {

class reference final : public subject {
 public:
  explicit reference(player& of) : player_(of), seats_(of.places(), nobody) {}

  void begin_turn(unsigned) override {}

  void turn(bool) override {
    stopped_ = false;
    harvest();
    try {
      deliver();
    } catch (const scripted&) {
      keep_unrepeatable();
      throw;
    }
    if (stopped_) return keep_unrepeatable();
    for (event& each : events_) {
      if (each.over || each.optional) continue;
      if (plan_of(each) != 0) player_.notes().differs("not delivered: " + text_of(each));
      go_silent(each);
    }
    events_.clear();
  }

  int watch(unsigned place, int number, const wishes& how, int id) override {
    if (!how.read && !how.write && !how.error) return misuse;
    if (seats_[place] != nobody && !how.replace) {
      if (player_.is_moored(place)) return EEXIST;
      // The one before has lost its descriptor: the number may be taken all the same, or refused.
      const record* const theirs = player_.notes().next();
      if (theirs != nullptr && theirs->what == 'o' && theirs->result == EEXIST) return EEXIST;
    }
    registration made{
        .place = place, .id = id, .number = number, .how = how, .reads = how.read, .writes = how.write};
    if (const int error = listen(made); error != 0) return error;
    if (seats_[place] != nobody) end(place, number, 0);
    seats_[place] = registrations_.size();
    registrations_.push_back(std::move(made));
    return 0;
  }
  int enable(unsigned place, kind direction) override {
    registration& which = at(place);
    if (!(direction == kind::read ? which.how.read : which.how.write)) return misuse;
    bool& enabled = direction == kind::read ? which.reads : which.writes;
    if (enabled && which.listens && !which.how.oneshot) return 0;
    enabled = true;
    return listen(which);
  }
  void disable(unsigned place, kind direction) override {
    registration& which = at(place);
    bool& enabled = direction == kind::read ? which.reads : which.writes;
    if (!std::exchange(enabled, false) || !which.listens) return;
    listen(which);
  }
  int rearm(unsigned place) override {
    registration& which = at(place);
    return which.listens && !which.how.oneshot ? 0 : listen(which);
  }
  void end(unsigned place, int, unsigned) override {
    if (seats_[place] == nobody) return;
    registration& which = at(place);
    which.alive = which.listens = false;
    which.set.reset();
    seats_[place] = nobody;
  }
  int use_former(unsigned, unsigned way) override { return way == 0 ? 0 : misuse; }
  void stop() override { stopped_ = true; }
  view look(unsigned place) const override {
    const registration& which = registrations_[seats_[place]];
    return {which.listens, which.reads, which.writes};
  }
  bool can_wake() const override {
    return std::any_of(registrations_.begin(), registrations_.end(),
                       [](const registration& each) { return each.listens; });
  }
  std::size_t count() const override {
    return seats_.size() - static_cast<std::size_t>(std::count(seats_.begin(), seats_.end(), nobody));
  }
  int idle_events() override { return 0; }

 private:
  static constexpr auto nobody = ~std::size_t{0};

  struct registration {
    unsigned place;
    int id;
    int number;
    wishes how;
    bool reads, writes;
    bool alive = true;
    bool listens = false;
    unsigned arming = 0;
    coir::unique_fd set{};
  };
  struct event {
    std::size_t of;
    std::uint32_t happened;
    unsigned arming;
    bool optional;
    unsigned steps = 0;  // those that are left, once it has begun
    unsigned maybe = 0;  // of those, the ones that may be left out
    bool begun = false;
    bool over = false;
  };
  static constexpr unsigned bit(kind what) { return 1U << static_cast<unsigned>(what); }

  registration& at(unsigned place) { return registrations_[seats_[place]]; }

  static std::uint32_t interest(const registration& of) {
    return (of.reads ? EPOLLIN | EPOLLRDHUP : 0U) | (of.writes ? EPOLLOUT : 0U) |
           (of.how.edge ? EPOLLET : 0U);
  }
  // From here on the kernel tells of what is so, and what it told of a oneshot one before is void.
  int listen(registration& which) {
    epoll_event wanted{};
    wanted.events = interest(which);
    if (which.set && !which.how.oneshot) {
      return ::epoll_ctl(which.set.get(), EPOLL_CTL_MOD, which.number, &wanted) < 0 ? errno : 0;
    }
    coir::unique_fd set(::epoll_create1(EPOLL_CLOEXEC));
    REQUIRE(set);
    if (::epoll_ctl(set.get(), EPOLL_CTL_ADD, which.number, &wanted) < 0) return errno;
    which.set = std::move(set);
    which.listens = true;
    ++which.arming;
    return 0;
  }

  // The kernel may have been asked anew about what was left over, if its set had to be made anew: then it
  // tells what is so now, and who has lost the descriptor is found out, and hears nothing more.
  void look_again() {
    for (std::size_t i = 0, left = events_.size(); i < left; ++i) {
      const registration& to = registrations_[events_[i].of];
      if (!player_.is_moored(to.place)) {
        events_[i].optional = true;
        continue;
      }
      if (!to.how.oneshot || events_[i].begun || plan_of(events_[i]) == 0) continue;
      events_[i].optional = true;
      const std::uint32_t now = ready(to);
      if (now != 0) events_.push_back({events_[i].of, now, to.arming, false});
    }
  }
  static std::uint32_t ready(const registration& of) {
    pollfd now{of.number, static_cast<short>(interest(of) & (EPOLLIN | EPOLLOUT | EPOLLRDHUP)), 0};
    return ::poll(&now, 1, 0) == 1 ? static_cast<std::uint32_t>(now.revents) : 0;
  }
  void harvest() {
    look_again();
    for (std::size_t i = 0; i < registrations_.size(); ++i) {
      registration& each = registrations_[i];
      if (!each.set) continue;
      const bool moored = player_.is_moored(each.place);
      epoll_event found{};
      if (::epoll_wait(each.set.get(), &found, 1, 0) == 1) {
        events_.push_back({i, found.events, each.arming, !moored});
        if (each.how.oneshot) each.set.reset();
      } else if (each.how.edge && moored) {
        // A set that is made anew tells of edges once more.
        if (const std::uint32_t now = ready(each); now != 0) events_.push_back({i, now, each.arming, true});
      }
    }
  }

  // Which callbacks it would call now.
  unsigned plan_of(const event& of) const {
    const registration& to = registrations_[of.of];
    if (!to.alive || of.over) return 0;
    const unsigned enabled = (to.how.error ? bit(kind::error) : 0) | (to.reads ? bit(kind::read) : 0) |
                             (to.writes ? bit(kind::write) : 0);
    if (of.begun) return of.steps & enabled;
    if (to.how.oneshot && to.arming != of.arming) return 0;
    const bool failed = (of.happened & EPOLLERR) != 0;
    const bool hung_up = (of.happened & EPOLLHUP) != 0;
    const bool unread = hung_up && !to.reads;
    if ((failed || unread) && to.how.error) return bit(kind::error);
    unsigned steps = 0;
    if (failed || hung_up || (of.happened & (EPOLLIN | EPOLLRDHUP)) != 0) steps |= bit(kind::read);
    if (failed || unread || (of.happened & EPOLLOUT) != 0) steps |= bit(kind::write);
    return steps & enabled;
  }
  bool is_unheard(const event& of) const {
    const registration& to = registrations_[of.of];
    return to.alive && to.listens && !of.over && !of.begun && (of.happened & (EPOLLERR | EPOLLHUP)) != 0 &&
           !(to.how.oneshot && to.arming != of.arming) && plan_of(of) == 0;
  }
  void go_silent(event& of) {
    if (!is_unheard(of)) return;
    registration& to = registrations_[of.of];
    to.set.reset();
    to.listens = false;
    of.over = true;
  }

  void deliver() {
    const record* theirs = nullptr;
    event* current = nullptr;
    for (;;) {
      theirs = player_.notes().next();
      // What would call nobody now may have had its turn just now.
      for (event& each : events_) {
        if (each.begun && (plan_of(each) & ~each.maybe) == 0) each.optional = true;
        if (plan_of(each) != 0) continue;
        each.optional |= !is_unheard(each);
        const unsigned place = registrations_[each.of].place;
        if (theirs == nullptr || (theirs->seen >> place & 1) != 0 || !player_.is_moored(place)) continue;
        go_silent(each);
      }
      if (current != nullptr && current->optional && !is_next(*current, theirs)) current = nullptr;
      if (stopped_ || theirs == nullptr || theirs->what != 'c') return;
      const auto what = static_cast<kind>(theirs->result);
      if (current == nullptr) current = find(*theirs);
      if (current == nullptr) player_.notes().differs("nothing of the kind is to be delivered");
      begin(*current, what);
      if (!is_next(*current, theirs)) {
        player_.notes().differs("to be delivered first: " + text_of(*current));
      }
      current->steps = plan_of(*current) & ~bit(what);
      current->over = current->steps == 0;
      player_.happened(registrations_[current->of].place, registrations_[current->of].id, what);
    }
  }
  bool is_next(const event& of, const record* theirs) const {
    const registration& to = registrations_[of.of];
    if (theirs == nullptr || theirs->what != 'c' || to.id != theirs->which) return false;
    // A oneshot one that has begun goes on without being disarmed again.
    const bool listens = (theirs->seen >> to.place & 1) != 0;
    if (to.how.oneshot && player_.is_moored(to.place) && listens != (of.begun && to.listens)) return false;
    const unsigned steps = plan_of(of);
    return (steps & (0U - steps)) == 1U << static_cast<unsigned>(theirs->result);
  }
  event* find(const record& theirs) {
    for (const bool optional : {false, true}) {
      for (event& each : events_) {
        if (each.optional == optional && is_next(each, &theirs)) return &each;
      }
    }
    return nullptr;
  }
  void begin(event& which, kind first) {
    if (which.begun) return;
    which.steps = plan_of(which);
    registration& to = registrations_[which.of];
    if (!to.how.oneshot) {
      which.begun = true;
      return;
    }
    // What was left over and what is so now: it may be either that is delivered.
    for (const event& other : events_) {
      if (&other == &which || other.of != which.of || other.begun) continue;
      const unsigned steps = plan_of(other) & ~(bit(first) - 1);
      if (steps == 0) continue;
      which.maybe |= which.steps ^ steps;
      which.steps |= steps;
    }
    which.begun = true;
    to.set.reset();
    to.listens = false;
    ++to.arming;
  }

  // What the kernel does not tell again is still to be delivered.
  void keep_unrepeatable() {
    std::erase_if(events_, [&](const event& each) {
      const registration& to = registrations_[each.of];
      return each.over || !to.alive || (!to.how.edge && !to.how.oneshot);
    });
  }

  std::string text_of(const event& of) const {
    const registration& to = registrations_[of.of];
    return fmt::format("place {} registration {} events {:x} steps {:x}", to.place, to.id, of.happened,
                       plan_of(of));
  }

  player& player_;
  std::vector<registration> registrations_;
  std::vector<std::size_t> seats_;  // by place
  std::vector<event> events_;       // taken from the kernel, and not delivered
  bool stopped_ = false;
};

}  // namespace tests::fuzz
