/* Peer: TCP echo on libuv, one thread.
 *
 * The echo is tried at once with uv_try_write, as the libuv guide advises for small answers; only
 * what the kernel does not take becomes a queued write with memory of its own. That is also why
 * one buffer serves all connections: it is empty again before the next read. */

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum { backlog = 4096, buffer_bytes = 65536 };

static char shared_buffer[buffer_bytes];

struct queued_write {
  uv_write_t request;
  char bytes[];
};

static void must(int result, const char* what) {
  if (result < 0) {
    fprintf(stderr, "libuv_echo: %s: %s\n", what, uv_strerror(result));
    exit(1);
  }
}

static void* must_allocate(size_t bytes) {
  void* const memory = malloc(bytes);
  if (memory == NULL) {
    must(UV_ENOMEM, "malloc");
  }
  return memory;
}

static void free_handle(uv_handle_t* handle) {
  free(handle);
}

static void end(uv_stream_t* peer) {
  if (!uv_is_closing((uv_handle_t*)peer)) {
    uv_close((uv_handle_t*)peer, free_handle);
  }
}

static void lend_buffer(uv_handle_t* peer, size_t suggested, uv_buf_t* buffer) {
  (void)peer;
  (void)suggested;
  *buffer = uv_buf_init(shared_buffer, sizeof shared_buffer);
}

static void written(uv_write_t* request, int status) {
  if (status < 0) {
    end(request->handle);
  }
  free(request);
}

static void queue_write(uv_stream_t* peer, const char* bytes, size_t length) {
  struct queued_write* const write = must_allocate(sizeof *write + length);
  memcpy(write->bytes, bytes, length);
  const uv_buf_t buffer = uv_buf_init(write->bytes, (unsigned)length);
  if (uv_write(&write->request, peer, &buffer, 1, written) < 0) {
    free(write);
    end(peer);
  }
}

/* A peer that ends its side still gets the echo that is queued: shutdown comes after the writes. */
static void shut_down(uv_shutdown_t* request, int status) {
  (void)status;
  end(request->handle);
  free(request);
}

static void end_after_writes(uv_stream_t* peer) {
  uv_shutdown_t* const request = must_allocate(sizeof *request);
  if (uv_shutdown(request, peer, shut_down) < 0) {
    free(request);
    end(peer);
  }
}

static void received(uv_stream_t* peer, ssize_t length, const uv_buf_t* buffer) {
  if (length == UV_EOF) {
    end_after_writes(peer);
    return;
  }
  if (length < 0) {
    end(peer);
    return;
  }
  const uv_buf_t echo = uv_buf_init(buffer->base, (unsigned)length);
  int sent = uv_try_write(peer, &echo, 1);
  if (sent == UV_EAGAIN) {
    sent = 0;
  }
  if (sent < 0) {
    end(peer);
  } else if (sent < length) {
    queue_write(peer, buffer->base + sent, (size_t)(length - sent));
  }
}

static void connected(uv_stream_t* listener, int status) {
  must(status, "listening");
  uv_tcp_t* const peer = must_allocate(sizeof *peer);
  must(uv_tcp_init(listener->loop, peer), "uv_tcp_init");
  if (uv_accept(listener, (uv_stream_t*)peer) < 0) {
    end((uv_stream_t*)peer);
    return;
  }
  uv_tcp_nodelay(peer, 1);
  must(uv_read_start((uv_stream_t*)peer, lend_buffer, received), "uv_read_start");
}

static void quit(uv_signal_t* handle, int number) {
  (void)number;
  uv_stop(handle->loop);
}

static int parse_port(int count, char** words) {
  if (count == 1) {
    return 0;
  }
  char* rest = NULL;
  const long port = count == 3 ? strtol(words[2], &rest, 10) : -1;
  if (count != 3 || strcmp(words[1], "--port") != 0 || *rest != '\0' || port < 0 || port > 65535) {
    fprintf(stderr, "libuv_echo: wants --port N, N from 0 to 65535\n");
    exit(2);
  }
  return (int)port;
}

int main(int count, char** words) {
  const int port = parse_port(count, words);
  signal(SIGPIPE, SIG_IGN);
  uv_loop_t* const loop = uv_default_loop();
  uv_signal_t terminate;
  must(uv_signal_init(loop, &terminate), "uv_signal_init");
  must(uv_signal_start(&terminate, quit, SIGTERM), "uv_signal_start");

  uv_tcp_t listener;
  struct sockaddr_in address;
  must(uv_ip4_addr("127.0.0.1", port, &address), "uv_ip4_addr");
  must(uv_tcp_init(loop, &listener), "uv_tcp_init");
  must(uv_tcp_bind(&listener, (const struct sockaddr*)&address, 0), "uv_tcp_bind");
  must(uv_listen((uv_stream_t*)&listener, backlog, connected), "uv_listen");
  int length = sizeof address;
  must(uv_tcp_getsockname(&listener, (struct sockaddr*)&address, &length), "getsockname");
  printf("listening %d\n", ntohs(address.sin_port));
  fflush(stdout);
  uv_run(loop, UV_RUN_DEFAULT);
  return 0;
}
