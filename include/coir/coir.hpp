// coir/coir.hpp: everything a program normally needs, in the order in which one part stands on another.
#pragma once

#include <coir/base/error.hpp>
#include <coir/base/expected.hpp>
#include <coir/base/time.hpp>

#include <coir/trace/trace.hpp>

#include <coir/loop/child.hpp>
#include <coir/loop/chunk.hpp>
#include <coir/loop/loop.hpp>
#include <coir/loop/path_watch.hpp>
#include <coir/loop/request.hpp>
#include <coir/loop/signal.hpp>
#include <coir/loop/waker.hpp>

#include <coir/fiber/await.hpp>
#include <coir/fiber/fiber.hpp>
#include <coir/fiber/local.hpp>
#include <coir/fiber/monitor.hpp>
#include <coir/fiber/op.hpp>
#include <coir/fiber/run.hpp>
#include <coir/fiber/scheduler.hpp>
#include <coir/fiber/sleep.hpp>
#include <coir/fiber/task.hpp>

#include <coir/scope/cancel_scope.hpp>
#include <coir/scope/cleanup.hpp>
#include <coir/scope/gather.hpp>
#include <coir/scope/heartbeat.hpp>
#include <coir/scope/nursery.hpp>
#include <coir/scope/periodic.hpp>
#include <coir/scope/shutdown.hpp>
#include <coir/scope/signals.hpp>
#include <coir/scope/supervisor.hpp>
#include <coir/scope/throttler.hpp>
#include <coir/scope/timeout.hpp>

#include <coir/sync/barrier.hpp>
#include <coir/sync/broadcast.hpp>
#include <coir/sync/channel.hpp>
#include <coir/sync/closed.hpp>
#include <coir/sync/condition.hpp>
#include <coir/sync/event.hpp>
#include <coir/sync/inbox.hpp>
#include <coir/sync/latch.hpp>
#include <coir/sync/mutex.hpp>
#include <coir/sync/once.hpp>
#include <coir/sync/received.hpp>
#include <coir/sync/resource_pool.hpp>
#include <coir/sync/select.hpp>
#include <coir/sync/semaphore.hpp>
#include <coir/sync/shared_mutex.hpp>

#include <coir/thread/mailbox.hpp>
#include <coir/thread/offload.hpp>
#include <coir/thread/pool.hpp>
#include <coir/thread/remote.hpp>
#include <coir/thread/remote_channel.hpp>
#include <coir/thread/runtime.hpp>

#include <coir/io/events.hpp>
#include <coir/io/readiness.hpp>
#include <coir/io/stream.hpp>

#include <coir/net/address.hpp>
#include <coir/net/tcp.hpp>
