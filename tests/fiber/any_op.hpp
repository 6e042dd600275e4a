// An op without its type, so that what stands around it is compiled once. It hides all but the three verbs: how far an
// op came when it was cancelled, what it says of itself, what a select asks of some (tests/io and tests/sync try those).
//
//   any_op(coir::sleep_for(1s))                      // its result goes nowhere
//   any_op(peer.read_some(into), [&](std::size_t n) { ... })
#pragma once

#include <coir/coir.hpp>

#include <memory>
#include <type_traits>
#include <utility>

namespace support {

class [[nodiscard]] any_op {
 public:
  static constexpr const char* name = "any";
  template <coir::op Op>
  explicit any_op(Op what) : any_op(std::move(what), [](auto&&...) {}) {}
  template <coir::op Op, class Then>
  any_op(Op what, Then then) : held_(std::make_unique<holder<Op, Then>>(std::move(what), std::move(then))) {}

  bool start(coir::waiter& told) { return held_->start(told); }
  coir::abort_answer abort() noexcept { return held_->abort(); }
  // An op with a result that throws `cancelled` itself throws it from here.
  void take() { held_->take(); }

 private:
  struct held {
    virtual ~held() = default;
    virtual bool start(coir::waiter& told) = 0;
    virtual coir::abort_answer abort() noexcept = 0;
    virtual void take() = 0;
  };
  template <class Op, class Then>
  struct holder final : held {
    holder(Op made, Then made_then) : what(std::move(made)), then(std::move(made_then)) {}
    bool start(coir::waiter& told) override { return what.start(told); }
    coir::abort_answer abort() noexcept override { return what.abort(); }
    void take() override {
      if constexpr (std::is_void_v<coir::result_of<Op>>) {
        what.take();
        then();
      } else {
        then(what.take());
      }
    }
    Op what;
    Then then;
  };
  std::unique_ptr<held> held_;
};

}  // namespace support
