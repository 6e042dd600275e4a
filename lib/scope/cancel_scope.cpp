#include <coir/scope/cancel_scope.hpp>

#include <coir/fiber/scheduler.hpp>

#include <optional>

namespace coir {

// A token of somebody else's. Its thread must not touch the scope, and has nothing to allocate: what it posts is
// made beforehand.
//
// It may be stopped at any time, and fibers that wait for that are no deadlock; unless it was, or nobody is left who
// could. The last of these goes without a word, so the loop asks.
class cancel_scope::stop_link final : private loop::conditional_hold {
 public:
  stop_link(std::stop_token token, loop& on, const std::shared_ptr<cancel_scope*>& whom)
      : token_(std::move(token)) {
    auto request = std::make_unique<asked>();
    request->whom = whom;
    request->link = this;
    callback_.emplace(token_, posting{&on, std::move(request)});
    on.ask(*this);
  }
  stop_link(const stop_link&) = delete;
  ~stop_link() { unlink(); }

 private:
  struct asked final : post_node {
    std::shared_ptr<cancel_scope*> whom;
    stop_link* link = nullptr;  // lives as long as there is a scope
    void run() override {
      if (*whom == nullptr) return;
      link->heard_ = true;
      (*whom)->cancel();
    }
  };
  struct posting {
    loop* on;
    std::unique_ptr<asked> request;
    void operator()() noexcept { on->post_made(std::move(request)); }
  };

  // Not stop_requested(): between that and the post is a moment in which nothing else keeps the loop.
  bool holds() const noexcept override { return !heard_ && token_.stop_possible(); }

  std::stop_token token_;
  bool heard_ = false;
  std::optional<std::stop_callback<posting>> callback_;
};

cancel_scope::cancel_scope() noexcept = default;
cancel_scope::~cancel_scope() {
  // Where run() did not get as far as its body, links may be left.
  cut_links();
}

void cancel_scope::cut_links() noexcept {
  // Waits for a thread that is in the middle of posting; what it has posted finds nobody.
  links_.clear();
  if (self_ != nullptr) *self_ = nullptr;
}

void cancel_scope::tell_token(entered_region& mine) noexcept {
  if (mine.cancelled()) static_cast<cancel_scope&>(mine).source_.request_stop();
}

std::stop_token cancel_scope::stop_token() {
  if (!source_.stop_possible()) {
    source_ = std::stop_source();
    on_told(tell_token);
    if (cancelled()) source_.request_stop();
  }
  return source_.get_token();
}

void cancel_scope::link(std::stop_token token) {
  if (entered()) {
    make_link(token);
  } else {
    wanted_.push_back(std::move(token));
  }
}

void cancel_scope::make_link(const std::stop_token& token) {
  if (token.stop_requested()) {
    cancel();
  } else if (token.stop_possible()) {
    fiber_home& home = (entered() ? *fiber() : running_fiber()).home();
    if (self_ == nullptr) self_ = std::make_shared<cancel_scope*>(this);
    links_.push_back(std::make_unique<stop_link>(token, home.on(), self_));
  }
}

priv::scope_of_call::scope_of_call(cancel_scope& which) : scope_(which) {
  if (which.was_entered()) throw_misuse("a cancel_scope was run a second time: it is for one piece of code, once");
  for (const std::stop_token& each : which.wanted_) which.make_link(each);
}

priv::scope_of_call::~scope_of_call() { scope_.cut_links(); }

entered_region& priv::scope_of_call::region() noexcept { return scope_; }

}  // namespace coir
