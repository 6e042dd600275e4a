// coir/sync/select.hpp: whichever of several ops is over first; the others are stopped before it returns.
//
//   auto got = co_await coir::select(orders.receive(), ticks.receive(), coir::sleep_for(1s));
//   if (got.index() == 0) handle(std::get<0>(got));            // a std::variant with a place for each op
//   auto now = coir::await(coir::select(orders.receive(), coir::otherwise));      // never waits
//   auto sending = out.send(std::move(job));                   // by its name: it stays where it is, and has its
//   auto sent = co_await coir::select(sending, stop.receive()); // value if the other one was first
//   auto any = co_await coir::select_any(receives);            // as many as there are: any.index, any.value
//                                                              [tests/sync/select_test.cpp]
//
// The first op that is over, which may be at once, has won. In that moment, and not when the fiber runs, all others
// are stopped: nobody hands anything to a select that has its winner. Most stop at once. What the kernel still owns is
// waited for, and may have succeeded: got.also<1>() is its result then, and a null pointer otherwise; any.also has all
// such. Of an op of several steps that was stopped half-way, got.transferred<1>() says how far it came. The ops of one
// select do not meet each other: it cannot receive what it sends.
//
// Shape    an op made of ops, 24 bytes for each and 32; select_any() allocates those for each. Its result is a
//          std::variant: std::get, std::visit, index(). For void it has std::monostate, for a reference a pointer.
//          select_any() gives a first_result (coir/scope/gather.hpp).
// Order    they begin with one that is drawn, and then in order: of n, one that is always ready wins at least once in
//          n times on average. What is drawn is the same in every run that goes the same way.
// Thread   one loop.
// Cancel   stops all: now, when all of them do, else later. What succeeds all the same is delivered.
// Errors   what the winner throws, also at its start, is thrown when the others are over. What a loser throws is not:
//          it goes to the fiber's other_failures(). When the winner throws and a loser succeeds, the loser has won,
//          and the error goes there. std::logic_error: select_any() of no ops.
// Cost     that of its ops, and about 10 ns for each.
// See      coir::first (coir/scope/gather.hpp), for tasks; lib/sync/NOTE.md
#pragma once

#include <coir/base/error.hpp>
#include <coir/fiber/fiber_home.hpp>
#include <coir/fiber/op.hpp>
#include <coir/scope/gather.hpp>
#include <coir/sync/wait_list.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>
#include <ranges>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace coir {

// The last argument of a select(): taken when nothing is ready at once. An op that the kernel must give back first
// is waited for until it is given back; if it succeeds by then, it has won.
class otherwise_type {
 public:
  constexpr otherwise_type() noexcept {}
};
inline constexpr otherwise_type otherwise;

namespace priv {

template <class Op>
inline constexpr bool steps_aside = requires(Op& what) { what.step_aside(); };
template <class Op>
inline constexpr bool has_progress = requires(Op& what) {
  { what.cancellation() } -> std::convertible_to<cancelled>;
};
template <class Op>
inline constexpr bool hears_of_shutdown = requires(Op& what) { what.shutting_down(); };

// --- what losers leave behind ---

// What waits in a list is either told or stops at once, but for a condition, which waits for its mutex then.
template <op Op>
inline constexpr bool may_be_late = !std::is_base_of_v<wait_node, Op> || requires { Op::succeeds_late; };

template <class T, bool Late>
class late_value {
 public:
  T* get() noexcept { return value_ ? &*value_ : nullptr; }
  const T* get() const noexcept { return value_ ? &*value_ : nullptr; }
  void put(T&& value) { value_.emplace(std::move(value)); }

 private:
  std::optional<T> value_;
};
template <class T>
class late_value<T, false> {
 public:
  T* get() noexcept { return nullptr; }
  const T* get() const noexcept { return nullptr; }
  void put(T&&) noexcept {}
};

template <bool Counted>
class progress {
 public:
  std::size_t bytes() const noexcept { return bytes_; }
  void set(std::size_t bytes) noexcept { bytes_ = bytes; }

 private:
  std::size_t bytes_ = 0;
};
template <>
class progress<false> {};

template <op Op>
class loser : public late_value<kept<result_of<Op>>, may_be_late<Op>>, public progress<has_progress<Op>> {};

// What was thrown where more than one op was over.
class select_failures {
 public:
  // In a handler.
  void caught(bool by_winner) noexcept;
  // Somebody else has won.
  void keep() noexcept;
  bool any() const noexcept { return thrown_ != nullptr; }
  [[noreturn]] void rethrow() const;

 private:
  std::exception_ptr thrown_;
  std::size_t transferred_ = 0;
};

// --- the ops ---

class select_base;

// An op of a select, and who is told of its end.
class select_branch : public waiter {
 public:
  enum class state : std::uint8_t { idle, waiting, asked, stopped, over, failed };

  explicit select_branch(const waiter_kind& kind) noexcept : waiter(kind) {}
  bool active() const noexcept { return state_ == state::waiting || state_ == state::asked; }
  bool ended() const noexcept { return state_ >= state::over; }

  select_base* of_ = nullptr;
  state state_ = state::idle;

 protected:
  ~select_branch() = default;
};

// `Held` is an op, or a reference to one.
template <class Held>
class branch_of : public select_branch {
 public:
  using op_type = std::remove_reference_t<Held>;
  branch_of(const waiter_kind& kind, Held&& what) : select_branch(kind), what_(std::forward<Held>(what)) {}
  op_type& what() noexcept { return what_; }
  const op_type& what() const noexcept { return what_; }

 private:
  Held what_;
};

template <std::size_t I, class Held>
class branch_at : public branch_of<Held> {
 public:
  using branch_of<Held>::branch_of;
};

// The branches of select().
template <class Index, class... Held>
class named_branches;
template <std::size_t... I, class... Held>
class named_branches<std::index_sequence<I...>, Held...> : public branch_at<I, Held>... {
 public:
  static constexpr bool meet_each_other = (steps_aside<std::remove_reference_t<Held>> + ...) > 1;
  static constexpr bool any_steps_aside = (steps_aside<std::remove_reference_t<Held>> || ...);
  static constexpr bool any_progress = (has_progress<std::remove_reference_t<Held>> || ...);
  static constexpr bool any_hears_of_shutdown = (hears_of_shutdown<std::remove_reference_t<Held>> || ...);

  explicit named_branches(const waiter_kind& kind, Held&&... ops)
      : branch_at<I, Held>(kind, std::forward<Held>(ops))... {}
  static constexpr std::uint32_t count() noexcept { return sizeof...(Held); }

  template <std::size_t J, class That>
  static branch_at<J, That>& pick(branch_at<J, That>& which) noexcept {
    return which;
  }
  template <std::size_t J>
  auto& at() noexcept {
    return pick<J>(*this);
  }
  template <class Visit>
  void each(Visit&& visit) {
    (visit(static_cast<branch_of<Held>&>(at<I>())), ...);
  }
  template <class Visit>
  void each(Visit&& visit) const {
    (visit(static_cast<const branch_of<Held>&>(const_cast<named_branches*>(this)->template at<I>())), ...);
  }
  template <class Visit>
  void each_backwards(Visit&& visit) {
    (visit(at<sizeof...(Held) - 1 - I>()), ...);
  }
  // From the `first` on, all around, as long as `visit` says so.
  template <class Visit>
  void each_from(std::uint32_t first, Visit&& visit) {
    for (const bool before : {false, true}) {
      if (!(((I < first) != before || visit(static_cast<branch_of<Held>&>(at<I>()))) && ...)) return;
    }
  }
};

// The branches of select_any().
template <op Op>
class counted_branches {
 public:
  static constexpr bool meet_each_other = steps_aside<Op>;
  static constexpr bool any_steps_aside = steps_aside<Op>;
  static constexpr bool any_progress = false;
  static constexpr bool any_hears_of_shutdown = hears_of_shutdown<Op>;

  counted_branches(const waiter_kind& kind, std::span<Op> ops) {
    branches_.reserve(ops.size());
    for (Op& each : ops) branches_.emplace_back(kind, each);
  }
  std::uint32_t count() const noexcept { return static_cast<std::uint32_t>(branches_.size()); }

  template <class Visit>
  void each(Visit&& visit) {
    for (auto& branch : branches_) visit(branch);
  }
  template <class Visit>
  void each(Visit&& visit) const {
    for (const auto& branch : branches_) visit(branch);
  }
  template <class Visit>
  void each_backwards(Visit&& visit) {
    for (std::size_t i = branches_.size(); i-- != 0;) visit(branches_[i]);
  }
  template <class Visit>
  void each_from(std::uint32_t first, Visit&& visit) {
    for (std::size_t i = 0, at = first; i < branches_.size(); ++i) {
      if (!visit(branches_[at])) return;
      if (++at == branches_.size()) at = 0;
    }
  }

 protected:
  std::vector<branch_of<Op&>> branches_;
};

// --- the select ---

class select_base {
 protected:
  waiter* told_ = nullptr;
  select_branch* winner_ = nullptr;
  std::exception_ptr failure_;  // of the winner's start
  std::uint32_t left_ = 0;      // so many have begun and are not over
  bool busy_ = false;           // they are being started or stopped: nobody is told of the end meanwhile
  bool asked_ = false;          // all were to stop, and nobody had won
  bool mixed_ = false;          // others than the winner are over
  bool next_turn_ = false;      // the winner was told of at its start: others run before it goes on
};

template <class Branches, bool HasOtherwise>
class selecting : public select_base, protected Branches {
  using state = select_branch::state;

 public:
  bool start(waiter& told) {
    told_ = &told;
    winner_ = nullptr;
    asked_ = mixed_ = next_turn_ = false;
    this->each([](auto& branch) { branch.state_ = state::idle; });
    busy_ = true;
    const std::uint32_t first = this->count() == 1 ? 0 : running_fiber().home().draw(this->count());
    this->each_from(first, [this](auto& branch) { return this->begin(branch); });
    // Before any of them is stopped, too: it may ask whether it still waits.
    if constexpr (Branches::meet_each_other) step_back();
    // By what one of them did while it began, abort() has been called, and has answered for all.
    if (asked_ && winner_ == nullptr) [[unlikely]]
      return true;
    if (!HasOtherwise && winner_ == nullptr) [[likely]] {
      busy_ = false;
      return true;
    }
    asked_ = winner_ == nullptr;
    stop_all();
    if (left_ != 0) return true;
    if (HasOtherwise || !next_turn_) return false;
    told.done();
    return true;
  }
  abort_answer abort() noexcept {
    // With a winner, and with `otherwise`, all were asked before.
    if (winner_ != nullptr || asked_) return abort_answer::later;
    asked_ = true;
    // By what one of them does while it begins: the others stand aside still.
    if constexpr (Branches::meet_each_other) {
      if (busy_) step_back();
    }
    stop_all();
    if (left_ != 0) return abort_answer::later;
    if (!mixed_) return abort_answer::now;
    told_->done();
    return abort_answer::later;
  }
  void describe(std::string& text) const {
    const char* before = " of ";
    this->each([&](const auto& branch) {
      if (!branch.active()) return;
      text += std::exchange(before, " or ");
      text += std::remove_cvref_t<decltype(branch.what())>::name;
      if constexpr (requires { branch.what().describe(text); }) branch.what().describe(text);
    });
  }
  // Of all together.
  cancelled cancellation()
    requires(Branches::any_progress)
  {
    std::size_t bytes = 0;
    this->each([&](auto& branch) { bytes += progress_of(branch); });
    return cancelled(bytes);
  }
  void shutting_down()
    requires(Branches::any_hears_of_shutdown)
  {
    this->each([&](auto& branch) {
      if constexpr (requires { branch.what().shutting_down(); }) {
        if (branch.state_ == state::waiting) branch.what().shutting_down();
      }
    });
  }
  // As part of another select.
  void step_aside() noexcept
    requires(Branches::any_steps_aside)
  {
    this->each_backwards([](auto& branch) {
      if constexpr (requires { branch.what().step_aside(); }) {
        if (branch.state_ == state::waiting) branch.what().step_aside();
      }
    });
  }
  void step_back() noexcept
    requires(Branches::any_steps_aside)
  {
    this->each([](auto& branch) {
      if constexpr (requires { branch.what().step_back(); }) {
        if (branch.state_ == state::waiting) branch.what().step_back();
      }
    });
  }

 protected:
  template <class... Arguments>
  explicit selecting(Arguments&&... arguments) : Branches(kind, std::forward<Arguments>(arguments)...) {}
  selecting(selecting&&) = default;
  ~selecting() = default;

  template <class Branch>
  static std::size_t progress_of([[maybe_unused]] Branch& branch) {
    if constexpr (has_progress<typename Branch::op_type>) {
      if (branch.state_ == state::stopped) return branch.what().cancellation().transferred();
    }
    return 0;
  }
  // Of a branch that is over.
  template <class Branch>
  auto take_from(Branch& branch) -> kept<result_of<typename Branch::op_type>> {
    using value = result_of<typename Branch::op_type>;
    if (branch.state_ == state::failed) [[unlikely]]
      std::rethrow_exception(failure_);
    if constexpr (std::is_void_v<value>) {
      branch.what().take();
      return {};
    } else if constexpr (std::is_reference_v<value>) {
      return std::addressof(branch.what().take());
    } else {
      return branch.what().take();
    }
  }
  template <class Branch, class Result>
  void collect(Branch& branch, std::optional<Result>& into, select_failures& failures) {
    if (!branch.ended()) return;
    const bool won = &branch == winner_;
    try {
      into.emplace(take_from(branch));
    } catch (const cancelled&) {
      if (!won) branch.state_ = state::stopped;
      failures.caught(won);
    } catch (...) {
      failures.caught(won);
    }
  }

 private:
  // False: there is a winner, or all were asked to stop, and nobody else begins.
  template <class Branch>
  bool begin(Branch& branch) {
    branch.of_ = this;
    branch.state_ = state::waiting;
    ++left_;
    try {
      if (branch.what().start(branch)) [[likely]] {
        if (winner_ != nullptr || asked_) [[unlikely]]
          return false;
        if constexpr (Branches::meet_each_other && steps_aside<typename Branch::op_type>) branch.what().step_aside();
        return true;
      }
      branch.state_ = state::over;
    } catch (...) {
      failure_ = std::current_exception();
      branch.state_ = state::failed;
    }
    --left_;
    if (winner_ == nullptr) {
      winner_ = &branch;
    } else {
      mixed_ = true;
    }
    return false;
  }
  void stop_all() noexcept {
    busy_ = true;
    if (left_ != 0) {
      this->each([this](auto& branch) {
        if (branch.state_ != state::waiting) return;
        branch.state_ = state::asked;
        if (branch.what().abort() == abort_answer::later) return;
        branch.state_ = state::stopped;
        --left_;
      });
    }
    busy_ = false;
  }
  static void finished(waiter& self) noexcept {
    auto& branch = static_cast<select_branch&>(self);
    static_cast<selecting&>(*branch.of_).over(branch);
  }
  void over(select_branch& which) noexcept {
    which.state_ = state::over;
    --left_;
    if (winner_ != nullptr || asked_) {
      mixed_ = true;
    } else {
      winner_ = &which;
      next_turn_ = busy_;
      if (!busy_) stop_all();
    }
    if (left_ == 0 && !busy_) told_->done();
  }
  static constexpr waiter_kind kind{finished};
};

}  // namespace priv

// Which op of a select has won, and what it gave: a std::variant, with an alternative for each op at its index.
template <class Variant, class... Losers>
class select_result : public Variant {
 public:
  template <std::size_t I, class... Arguments>
  explicit select_result(std::in_place_index_t<I> which, Arguments&&... arguments)
      : Variant(which, std::forward<Arguments>(arguments)...) {}

  // What the loser at this index gave, when it could not be stopped any more; null for all others.
  template <std::size_t I>
  auto also() noexcept {
    return std::get<I>(losers_).get();
  }
  template <std::size_t I>
  auto also() const noexcept {
    return std::get<I>(losers_).get();
  }
  // Bytes that the loser at this index had moved when it was stopped: of ops of several steps.
  template <std::size_t I>
  std::size_t transferred() const noexcept {
    return std::get<I>(losers_).bytes();
  }

 private:
  template <class Index, bool HasOtherwise, class... Held>
  friend class select_op;
  std::tuple<Losers...> losers_;
};

template <class Index, bool HasOtherwise, class... Held>
class [[nodiscard("co_await it, or coir::await(it)")]] select_op;

template <std::size_t... I, bool HasOtherwise, class... Held>
class [[nodiscard("co_await it, or coir::await(it)")]] select_op<std::index_sequence<I...>, HasOtherwise, Held...>
    : public priv::selecting<priv::named_branches<std::index_sequence<I...>, Held...>, HasOtherwise> {
  using base = priv::selecting<priv::named_branches<std::index_sequence<I...>, Held...>, HasOtherwise>;
  template <class Each>
  using value_of = priv::kept<result_of<std::remove_reference_t<Each>>>;
  using variant = std::conditional_t<HasOtherwise, std::variant<value_of<Held>..., std::monostate>,
                                     std::variant<value_of<Held>...>>;

 public:
  static constexpr const char* name = "select";
  using result = select_result<variant, priv::loser<std::remove_reference_t<Held>>...>;

  explicit select_op(Held&&... ops) : base(std::forward<Held>(ops)...) {}

  result take() {
    if constexpr (base::any_progress) {
      try {
        return with_progress(take_any());
      } catch (...) {
        // There is no result to say how far a loser came.
        const cancelled stopped = this->cancellation();
        if (this->winner_ != nullptr && stopped.transferred() != 0) {
          priv::keep_failure(std::make_exception_ptr(stopped));
        }
        throw;
      }
    } else {
      return take_any();
    }
  }

 private:
  result take_any() {
    if (this->mixed_) [[unlikely]]
      return take_mixed();
    if constexpr (HasOtherwise) {
      if (this->winner_ == nullptr) return result(std::in_place_index<sizeof...(Held)>);
    }
    return take_winner<0>();
  }
  template <std::size_t J>
  result take_winner() {
    auto& branch = this->template at<J>();
    if constexpr (J + 1 < sizeof...(Held)) {
      if (this->winner_ != &branch) return take_winner<J + 1>();
    }
    return result(std::in_place_index<J>, this->take_from(branch));
  }
  template <std::size_t J>
  void set_progress(result& of) {
    if constexpr (priv::has_progress<typename std::remove_reference_t<decltype(this->template at<J>())>::op_type>) {
      std::get<J>(of.losers_).set(this->progress_of(this->template at<J>()));
    }
  }
  result with_progress(result of) {
    (set_progress<I>(of), ...);
    return of;
  }

  using results = std::tuple<std::optional<value_of<Held>>...>;
  [[gnu::cold, gnu::noinline]] result take_mixed() {
    results got;
    priv::select_failures failures;
    (this->collect(this->template at<I>(), std::get<I>(got), failures), ...);
    std::size_t won = sizeof...(Held);
    const auto consider = [&](std::size_t index, bool has_result, bool is_winner) {
      if (has_result && (won == sizeof...(Held) || is_winner)) won = index;
    };
    (consider(I, std::get<I>(got).has_value(), &this->template at<I>() == this->winner_), ...);
    if (won == sizeof...(Held)) {
      if constexpr (HasOtherwise) {
        if (!failures.any()) return result(std::in_place_index<sizeof...(Held)>);
      }
      failures.rethrow();
    }
    failures.keep();
    return make<0>(won, got);
  }
  template <std::size_t J>
  result make(std::size_t won, results& got) {
    if constexpr (J + 1 < sizeof...(Held)) {
      if (won != J) return make<J + 1>(won, got);
    }
    return make_of<J>(got);
  }
  // Made where it is returned: gcc 12 warns of what is not there in a result that is moved.
  template <std::size_t J>
  result make_of(results& got) {
    result made(std::in_place_index<J>, *std::move(std::get<J>(got)));
    const auto put = [&](auto& loser, auto& late, std::size_t index) {
      if (index != J && late.has_value()) loser.put(*std::move(late));
    };
    (put(std::get<I>(made.losers_), std::get<I>(got), I), ...);
    return made;
  }
};

template <op Op>
class [[nodiscard("co_await it, or coir::await(it)")]] select_any_op
    : public priv::selecting<priv::counted_branches<Op>, false> {
  using base = priv::selecting<priv::counted_branches<Op>, false>;

 public:
  static constexpr const char* name = "select";
  using value = priv::kept<result_of<Op>>;
  using result = first_result<value>;

  explicit select_any_op(std::span<Op> ops) : base(ops) {
    if (ops.empty()) throw_misuse("select_any() of no ops: none of them could ever be over");
  }

  result take() {
    auto& all = this->branches_;
    if (!this->mixed_) [[likely]] {
      const auto which = static_cast<std::size_t>(static_cast<priv::branch_of<Op&>*>(this->winner_) - all.data());
      return result(which, this->take_from(all[which]), {});
    }
    std::vector<std::optional<value>> got(all.size());
    priv::select_failures failures;
    std::size_t won = all.size();
    for (std::size_t i = 0; i < all.size(); ++i) {
      this->collect(all[i], got[i], failures);
      if (got[i].has_value() && (won == all.size() || &all[i] == this->winner_)) won = i;
    }
    if (won == all.size()) failures.rethrow();
    failures.keep();
    std::vector<finisher<value>> also;
    for (std::size_t i = 0; i < got.size(); ++i) {
      if (i != won && got[i].has_value()) also.emplace_back(i, *std::move(got[i]));
    }
    return result(won, *std::move(got[won]), std::move(also));
  }
};

namespace priv {

template <class Argument>
constexpr void check_selected() {
  using plain = std::remove_cvref_t<Argument>;
  if constexpr (is_task<plain>::value) {
    static_assert(never<Argument>,
                  "a task is not an op: select waits for ops. For tasks and functions there is coir::first(...)");
  } else if constexpr (std::is_same_v<plain, otherwise_type>) {
    static_assert(never<Argument>, "coir::otherwise is the last argument of select, behind an op");
  } else if constexpr (!op<plain>) {
    static_assert(never<Argument>,
                  "select takes ops (coir/fiber/op.hpp): for the end of a fiber write handle.join(); for functions "
                  "there is coir::first(...)");
  } else {
    static_assert(!only_yields<plain> && !cannot_be_cancelled<plain>,
                  "select cannot stop this op: it is waited for in any case. For what is ready at once there is "
                  "coir::otherwise");
    static_assert(!std::is_const_v<std::remove_reference_t<Argument>>, "an op is changed by waiting for it");
  }
}

template <class... Arguments>
struct last_is_otherwise : std::false_type {};
template <class First, class... Rest>
struct last_is_otherwise<First, Rest...> : last_is_otherwise<Rest...> {};
template <class Last>
struct last_is_otherwise<Last> : std::is_same<std::remove_cvref_t<Last>, otherwise_type> {};

// What an argument is held as: itself, or a reference to what has a name.
template <class... Held>
auto make_select(Held&&... ops) {
  (check_selected<Held>(), ...);
  return select_op<std::index_sequence_for<Held...>, false, Held...>(std::forward<Held>(ops)...);
}
template <std::size_t... I, class Arguments>
auto make_select_otherwise(std::index_sequence<I...> index, Arguments&& all) {
  (check_selected<std::tuple_element_t<I, Arguments>>(), ...);
  return select_op<decltype(index), true, std::tuple_element_t<I, Arguments>...>(std::get<I>(std::move(all))...);
}

}  // namespace priv

// The first that is over. An op that has a name stays where it is, and must stay there.
template <class Argument, class... Arguments>
auto select(Argument&& first, Arguments&&... rest) {
  if constexpr (priv::last_is_otherwise<Argument, Arguments...>::value) {
    static_assert(sizeof...(Arguments) != 0, "coir::otherwise is the last argument of select, behind an op");
    using all = std::tuple<Argument, Arguments...>;
    return priv::make_select_otherwise(std::make_index_sequence<sizeof...(Arguments)>(),
                                       all(std::forward<Argument>(first), std::forward<Arguments>(rest)...));
  } else {
    return priv::make_select(std::forward<Argument>(first), std::forward<Arguments>(rest)...);
  }
}

// The first of as many as there are, all of one type: a vector, an array or a span of ops, which stay where they are.
template <std::ranges::contiguous_range Ops>
  requires op<std::ranges::range_value_t<Ops>> && std::ranges::borrowed_range<Ops>
auto select_any(Ops&& ops) {
  using each = std::ranges::range_value_t<Ops>;
  static_assert(!priv::has_progress<each>,
                "an op of several steps must say how far it came: wait for it in a task of its own, with coir::first");
  priv::check_selected<each>();
  return select_any_op<each>(std::span<each>(ops));
}

}  // namespace coir
