#include <coir/fiber/loop_bound.hpp>

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>

namespace coir::priv {

void loop_bound::bind(const loop* here) noexcept {
  // Outside of any loop nothing runs at the same time that could be told from here.
  if (here == nullptr) return;
  if (bound_ == nullptr || loop::number_of_living(bound_) != number_) {
    *this = loop_bound(*here);
    return;
  }
  fmt::print(stderr,
             "coir: what belongs to loop {} was used on loop {}: locks, channels and throttlers are of one loop; "
             "between loops there are mailboxes (coir/thread/mailbox.hpp)\n",
             number_, here->number());
  std::abort();
}

}  // namespace coir::priv
