// Requests on readiness: try first, wait for an edge, try again. Private to lib/loop.
#pragma once

#include "backend_settings.hpp"

#include <memory>

namespace coir {

std::unique_ptr<backend> make_epoll_backend(trace::control& trace,
                                            const backend_settings& settings);

}  // namespace coir
