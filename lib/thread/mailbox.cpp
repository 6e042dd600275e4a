#include <coir/thread/mailbox.hpp>

namespace coir::priv {

void throw_not_delivered(delivery why) {
  if (why == delivery::full) throw_error(ENOBUFS, "sending to a mailbox that is full");
  throw_error(EPIPE, "sending to what is closed, or gone");
}

void refuse_no_room() {
  throw_misuse("a mailbox with room for no message, through which none could come; from hand to hand goes what is sent "
               "through a coir::remote_channel with none");
}

void mail_end::refuse_empty() { throw_misuse("an empty sender was used: it was moved from, or never had a mailbox"); }

}  // namespace coir::priv
