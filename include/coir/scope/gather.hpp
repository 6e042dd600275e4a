// coir/scope/gather.hpp: several things at a time: all of them, or whichever is first.
//
//   auto [page, user] = co_await coir::all(fetch(url), read_user(id));   // a tuple, in the order of the arguments
//   std::vector<page> pages = co_await coir::all(std::move(fetches));    // a vector<task<page>>
//   auto won = co_await coir::first(ask("east"), ask("west"));           // won.index, won.value, won.also
//   auto both = coir::await(coir::all([] { return one(); }, [] { return two(); }));     // on stacks
//                                                              [tests/scope/gather_test.cpp]
//
// Each is a fiber of its own: a task, a function that makes one, or a plain function on a stack of its own. None
// outlives the call. (An op is no fiber: a task awaits it.)
//
// Shape    functions that give a task. Among results nothing is std::monostate, and a reference a pointer; all() of
//          a vector of task<> gives nothing. first(): `value` is of the results' type if they have one in common,
//          else a std::variant with an alternative for each argument, at its index.
// Order    they begin in the order of the arguments, which is that of the results and of `also`. The first is the
//          one whose fiber has ended first, its children included; those that have not begun by then never do.
// Thread   one loop.
// Cancel   cancels all of them and waits for them. If they came to their end all the same, the result is
//          delivered, and the cancellation surfaces at the next suspend point. Spawned and forgotten, a task of
//          all() or first() that is cancelled before it runs runs none of them.
// Errors   all(): the first failure cancels the others and is thrown when they have ended; later ones are in the
//          fiber's other_failures(). first(): the winner's failure is thrown; what others threw goes there.
//          A fiber that was cancelled by itself has no result: all() then cancels the others and throws
//          std::errc::operation_canceled, first() does if all of them were. std::logic_error: first() of an empty
//          vector; a fiber was moved away whose result is wanted, by all() or for want of another. What spawning
//          throws.
// Cost     a coroutine's frame and the fibers: about 40 ns each. A vector allocates once or twice more.
// See      coir/scope/nursery.hpp, for a number of fibers that is not known before
#pragma once

#include <coir/base/place.hpp>
#include <coir/fiber/scheduler.hpp>
#include <coir/scope/inside.hpp>

#include <array>
#include <concepts>
#include <cstddef>
#include <exception>
#include <memory>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace coir {

// One of several, which came to its end: its place among the arguments, and what it returned.
template <class T>
class finisher {
 public:
  finisher(std::size_t which, T what) : index(which), value(std::move(what)) {}

  std::size_t index;
  T value;
};

// The first, and those that came to their end all the same when they were to stop.
template <class T>
class first_result : public finisher<T> {
 public:
  first_result(std::size_t which, T what, std::vector<finisher<T>> others)
      : finisher<T>(which, std::move(what)), also(std::move(others)) {}

  std::vector<finisher<T>> also;
};

namespace priv {

// A result among others.
template <class T>
using kept = std::conditional_t<std::is_void_v<T>, std::monostate,
                                std::conditional_t<std::is_reference_v<T>, std::add_pointer_t<T>, T>>;

// Of a fiber that has ended; throws if it has none.
template <class T>
kept<T> take_kept(fiber<T>& from) {
  // Where the one that asks is cancelled itself, that is why.
  if (from.outcome() == fiber_outcome::cancelled) running_fiber().check_interrupted();
  if constexpr (std::is_void_v<T>) {
    from.take().take();
    return {};
  } else if constexpr (std::is_reference_v<T>) {
    return std::addressof(from.take().take());
  } else {
    return from.take().take();
  }
}

template <class... Bodies>
using fibers_of = std::tuple<fiber<body_result_t<Bodies>>...>;

// Where the coroutine that runs is awaited: its fibers are spawned there, for whoever looks for them.
place awaited_at();

template <class... Bodies>
class all_of {
 public:
  using result = std::tuple<kept<body_result_t<Bodies>>...>;

  explicit all_of(Bodies... bodies) : bodies_(std::move(bodies)...) {}

  void begin(entered_region& where, place at) {
    where.need_all();
    begin(where, at, std::index_sequence_for<Bodies...>());
  }
  result end() { return end(std::index_sequence_for<Bodies...>()); }

 private:
  template <std::size_t... I>
  void begin([[maybe_unused]] entered_region& where, [[maybe_unused]] place at, std::index_sequence<I...>) {
    ((std::get<I>(fibers_) =
          where.fiber()->home().spawn(where, std::move(std::get<I>(bodies_)), spawn_options(), at)),
     ...);
  }
  template <std::size_t... I>
  result end(std::index_sequence<I...>) {
    return result{take_kept(std::get<I>(fibers_))...};
  }

  std::tuple<Bodies...> bodies_;
  fibers_of<Bodies...> fibers_;
};

// Tasks of one type, however many.
template <class T>
class tasks {
 public:
  explicit tasks(std::vector<task<T>> bodies) : bodies_(std::move(bodies)) {}

 protected:
  // Calls `begun(fiber, index)` for each.
  template <class Begun>
  void spawn(entered_region& where, place at, Begun begun) {
    fibers_.reserve(bodies_.size());
    for (task<T>& each : bodies_) {
      fibers_.push_back(where.fiber()->home().spawn(where, std::move(each), spawn_options(), at));
      begun(fibers_.back(), fibers_.size() - 1);
    }
  }
  std::size_t size() const noexcept { return bodies_.size(); }

  std::vector<task<T>> bodies_;
  std::vector<fiber<T>> fibers_;
};

template <class T>
class all_in : private tasks<T> {
 public:
  using result = std::conditional_t<std::is_void_v<T>, void, std::vector<kept<T>>>;
  using tasks<T>::tasks;

  void begin(entered_region& where, place at) {
    where.need_all();
    this->spawn(where, at, [](const handle_base&, std::size_t) {});
  }
  result end() {
    if constexpr (std::is_void_v<T>) {
      for (fiber<T>& each : this->fibers_) take_kept(each);
    } else {
      result results;
      results.reserve(this->fibers_.size());
      for (fiber<T>& each : this->fibers_) results.push_back(take_kept(each));
      return results;
    }
  }
};

// Who is first.
class race {
 public:
  static constexpr std::size_t nobody = static_cast<std::size_t>(-1);

  // Waits for the end of one fiber: it then has somebody to whom it fails, and its region is left alone.
  class entry : public waiter {
   public:
    entry() noexcept : waiter(kind) {}
    // Movable until it has entered.
    entry(entry&&) noexcept : waiter(kind) {}
    // A fiber that was moved away may live on.
    ~entry() {
      if (end_) static_cast<void>(end_->abort());
    }
    void enter(race& which, std::size_t index, const handle_base& who);

   private:
    static void finished(waiter& self) noexcept;
    static constexpr waiter_kind kind{finished};

    race* race_ = nullptr;
    std::size_t index_ = 0;
    std::optional<end_op> end_;
  };

  // Before anybody enters.
  void begin(entered_region& where) noexcept { where_ = &where; }
  // Throws if nobody has come to an end.
  std::size_t winner() const;

 private:
  entered_region* where_ = nullptr;
  std::size_t winner_ = nobody;
  std::size_t running_ = 0;  // have not ended
};

// What others than the winner threw: nothing is thrown for it.
template <class T>
void keep_failure(fiber<T>& of) noexcept {
  if (of.outcome() != fiber_outcome::failed) return;
  std::exception_ptr why;
  try {
    of.join().take();
  } catch (...) {
    why = std::current_exception();
  }
  keep_failure(std::move(why));
}

template <class... Bodies>
class first_of {
  template <class First, class...>
  struct first_type {
    using type = First;
  };
  using first_kept = typename first_type<kept<body_result_t<Bodies>>...>::type;
  static constexpr bool has_common = (std::is_same_v<first_kept, kept<body_result_t<Bodies>>> && ...);

 public:
  using value = std::conditional_t<has_common, first_kept, std::variant<kept<body_result_t<Bodies>>...>>;
  using result = first_result<value>;

  explicit first_of(Bodies... bodies) : bodies_(std::move(bodies)...) {}

  void begin(entered_region& where, place at) { begin(where, at, std::index_sequence_for<Bodies...>()); }
  result end() { return end(std::index_sequence_for<Bodies...>()); }

 private:
  template <std::size_t... I>
  void begin(entered_region& where, place at, std::index_sequence<I...>) {
    race_.begin(where);
    ((std::get<I>(fibers_) =
          where.fiber()->home().spawn(where, std::move(std::get<I>(bodies_)), spawn_options(), at),
      entries_[I].enter(race_, I, std::get<I>(fibers_))),
     ...);
  }
  template <std::size_t... I>
  result end(std::index_sequence<I...>) {
    const std::size_t winner = race_.winner();
    ((I == winner ? void() : keep_failure(std::get<I>(fibers_))), ...);
    std::optional<value> won;
    ((I == winner ? static_cast<void>(won.emplace(take<I>())) : void()), ...);
    std::vector<finisher<value>> also;
    ((I != winner && std::get<I>(fibers_).outcome() == fiber_outcome::returned
          ? static_cast<void>(also.emplace_back(I, take<I>()))
          : void()),
     ...);
    return result(winner, *std::move(won), std::move(also));
  }
  template <std::size_t I>
  value take() {
    if constexpr (has_common) {
      return take_kept(std::get<I>(fibers_));
    } else {
      return value(std::in_place_index<I>, take_kept(std::get<I>(fibers_)));
    }
  }

  std::tuple<Bodies...> bodies_;
  fibers_of<Bodies...> fibers_;
  race race_;
  std::array<race::entry, sizeof...(Bodies)> entries_;
};

template <class T>
class first_in : private tasks<T> {
 public:
  using value = kept<T>;
  using result = first_result<value>;
  using tasks<T>::tasks;

  void begin(entered_region& where, place at) {
    if (this->size() == 0) throw_misuse("first() of no tasks: nobody can be the first");
    race_.begin(where);
    entries_ = std::vector<race::entry>(this->size());
    this->spawn(where, at, [this](const handle_base& who, std::size_t index) {
      entries_[index].enter(race_, index, who);
    });
  }
  result end() {
    const std::size_t winner = race_.winner();
    std::vector<fiber<T>>& fibers = this->fibers_;
    for (std::size_t i = 0; i < fibers.size(); ++i) {
      if (i != winner) keep_failure(fibers[i]);
    }
    value won = take_kept(fibers[winner]);
    std::vector<finisher<value>> also;
    for (std::size_t i = 0; i < fibers.size(); ++i) {
      if (i != winner && fibers[i].outcome() == fiber_outcome::returned) also.emplace_back(i, take_kept(fibers[i]));
    }
    return result(winner, std::move(won), std::move(also));
  }

 private:
  race race_;
  std::vector<race::entry> entries_;
};

// Not in the coroutine: unoptimized, clang 14 keeps the exceptions of a coroutine that has a handler in its frame, and
// when the move of a body into that frame throws, it frees the frame first and then looks there for the exception.
template <class Gathering>
void begin(Gathering& what, entered_region& where, inside& steps) {
  try {
    running_fiber().check_interrupted();
    what.begin(where, awaited_at());
  } catch (...) {
    steps.caught();
  }
}

// The steps are those of a nursery whose body is only to spawn, without a coroutine for that body.
template <class Gathering>
auto gather(Gathering what) -> task<typename Gathering::result> {
  entered_region where;
  inside steps(where);
  begin(what, where, steps);
  while (steps.has_rest(inside::rest::is_awaited)) {
    region_end_op end(where);
    co_await end;
  }
  steps.leave();
  co_return what.end();
}

template <class>
inline constexpr bool is_tasks = false;
template <class T>
inline constexpr bool is_tasks<std::vector<task<T>>> = true;

template <class Body>
constexpr void check_gathered() {
  using plain = std::decay_t<Body>;
  if constexpr (is_task<plain>::value) {
    static_assert(!std::is_lvalue_reference_v<Body>, "a task runs once: write std::move(task)");
  } else if constexpr (is_tasks<plain>) {
    static_assert(!is_tasks<plain>, "a vector of tasks is the only argument, and tasks run once: write std::move(tasks)");
  } else {
    static_assert(!op<plain>, "all and first take tasks and functions, which run as fibers: await this op in one");
    static_assert(std::invocable<plain&>, "all and first take tasks and functions without arguments");
    static_assert(safe_in_await<Body>,
                  "gcc before 13 destroys the captures of a temporary in a co_await expression twice. Name the "
                  "function first: auto body = [...] {...}; and give it by that name");
  }
}

}  // namespace priv

// The results of all.
template <class... Bodies>
auto all(Bodies&&... bodies) {
  (priv::check_gathered<Bodies>(), ...);
  return priv::gather(priv::all_of<std::decay_t<Bodies>...>(std::forward<Bodies>(bodies)...));
}
template <class T>
auto all(std::vector<task<T>>&& bodies) {
  return priv::gather(priv::all_in<T>(std::move(bodies)));
}

// The first that ends; the others are cancelled and awaited.
template <class Body, class... Bodies>
auto first(Body&& body, Bodies&&... bodies) {
  priv::check_gathered<Body>();
  (priv::check_gathered<Bodies>(), ...);
  return priv::gather(priv::first_of<std::decay_t<Body>, std::decay_t<Bodies>...>(std::forward<Body>(body),
                                                                                 std::forward<Bodies>(bodies)...));
}
template <class T>
auto first(std::vector<task<T>>&& bodies) {
  return priv::gather(priv::first_in<T>(std::move(bodies)));
}

}  // namespace coir
