#include <coir/scope/heartbeat.hpp>

#include <coir/fiber/fiber_home.hpp>
#include <coir/fiber/local.hpp>

namespace coir {

namespace {
const fiber_local<std::shared_ptr<priv::pulse>> spoken_for;
}

child_hung::child_hung(const std::string& what) : std::runtime_error(what) {}

void heartbeat() {
  if (const auto* const mine = spoken_for.get(); mine != nullptr) {
    (*mine)->last = running_fiber().home().on().time();
  }
}

void priv::speak_for(const std::shared_ptr<pulse>& whom) { spoken_for.set(whom); }

}  // namespace coir
