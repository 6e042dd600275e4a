#include <coir/fiber/loop_bound.hpp>

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>

namespace coir::priv {

void loop_bound::bind(const loop* here) noexcept {
  // Outside of any loop nothing runs at the same time that could be told from here.
  if (here == nullptr) return;
  const unsigned other = bound_ == nullptr ? 0 : loop::number_of_living(bound_);
  if (other == 0) {
    bound_ = here;
    return;
  }
  fmt::print(stderr,
             "coir: what belongs to loop {} was used on loop {}: locks, channels and throttlers are of one loop; "
             "between loops there are mailboxes (coir/thread/mailbox.hpp)\n",
             other, here->number());
  std::abort();
}

}  // namespace coir::priv
