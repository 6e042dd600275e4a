// coir/io/stream.hpp: what a byte stream is, and what can be done with any of them.
//
//   co_await coir::io::write_all(peer, bytes);
//   std::size_t n = co_await coir::io::read_exactly(peer, header);    // less than asked: end of stream
//   coir::io::buffered_reader reader(peer);
//   while (auto line = co_await reader.read_line()) handle(*line);
//                                                              [tests/io/stream_test.cpp]
//
// Shape    a stream has read_some and write_some, ops that move at least one byte, or none at the end of
//          the stream. What is here is made of them, and is an op itself: no frame, no allocation (the
//          buffered_reader has one buffer, which grows to what the longest result needed).
// Order    one reader and one writer at a time; two writers would mix their bytes.
// Lifetime what takes several steps needs the stream where it is until it is over. To end it before, close() the
//          stream on its loop: std::errc::bad_file_descriptor.
// Thread   one loop. Steps after the first are made by whoever completes the one before: outside of any fiber, or in
//          another's. A stream of one's own names its loop; its read_some and write_some, and the start() of what
//          they give, must not wait, spawn or ask for the running fiber. What they throw reaches the awaiter. By the
//          time of their describe() the stream may be gone.
// Cancel   write_all and read_exactly stop between two steps and say in `cancelled` how many bytes had
//          moved; awaited again, they go on there. So does one with a name under a limit (timeout.hpp), which
//          does not say how many. A buffered_reader keeps what it has read: nothing is lost.
// Errors   write_all, read_exactly: io::partial_error, a std::system_error with transferred(). The end of
//          the stream is a value. A line longer than the limit: std::errc::message_size; nothing is lost,
//          and the next call may have a larger limit. No memory on the way: std::errc::not_enough_memory.
// Cost     that of the steps, and a few instructions each.
// See      coir/net/tcp.hpp
#pragma once

#include <coir/base/error.hpp>
#include <coir/base/expected.hpp>
#include <coir/fiber/op.hpp>
#include <coir/loop/loop.hpp>
#include <coir/loop/timer_heap.hpp>
#include <coir/loop/waiter.hpp>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <exception>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

namespace coir::io {

template <class Stream>
using read_step = decltype(std::declval<Stream&>().read_some(std::span<std::byte>()));
template <class Stream>
using write_step = decltype(std::declval<Stream&>().write_some(std::span<const std::byte>()));

// An op that gives a number of bytes, with its error as a value.
template <class Step>
concept byte_step = op<Step> && requires(Step& step) {
  { step.take_result() } -> std::same_as<result<std::size_t>>;
};

template <class Stream>
concept readable_stream = byte_step<read_step<Stream>>;
template <class Stream>
concept writable_stream = byte_step<write_step<Stream>>;
template <class Stream>
concept byte_stream = readable_stream<Stream> && writable_stream<Stream>;

// An operation of several steps failed after some of them.
class partial_error : public std::system_error {
 public:
  partial_error(std::error_code code, const std::string& where, std::size_t transferred)
      : std::system_error(code, where + ", after " + std::to_string(transferred) + " bytes"), transferred_(transferred) {}
  std::size_t transferred() const noexcept { return transferred_; }

 private:
  std::size_t transferred_;
};

// An op made of one step after another. Derived says what the next step is, and what its bytes mean:
//   void next();                     // calls step(make) to have one made; does not when all is done
//   void moved(std::size_t bytes);   // by the step before; 0 is the end of the stream
//   void again();                    // awaited again: what it has moved stays moved
template <class Derived, byte_step Step>
class stepping_op : public waiter {
 public:
  // Movable until it is started, when there is no step yet.
  stepping_op([[maybe_unused]] stepping_op&& other) noexcept : waiter(stepping_kind) {
    COIR_ASSERT(!other.step_.has_value(), "an op was moved after it was started");
  }

  bool start(waiter& told) noexcept {
    if (std::exchange(told_, &told) != nullptr) [[unlikely]]
      forget_last();
    return guarded([](stepping_op& self) { return self.go_on(); });
  }
  abort_answer abort() noexcept {
    stopping_ = true;
    if (later_.armed()) {
      loop_->disarm(later_);
      return abort_answer::now;
    }
    // By what the stream itself does, asked for a step or for what came of one: whoever asks it will see.
    if (!under_way_) return abort_answer::later;
    return abort_step();
  }
  // A step of somebody else's: the stream was closed under its own latest step.
  bool closed_under() const noexcept { return closed_; }
  void describe(std::string& text) const {
    if (!step_.has_value()) return;
    text += std::string(": ") + Step::name;
    if constexpr (requires { step_->describe(text); }) step_->describe(text);
  }

 protected:
  stepping_op() noexcept : waiter(stepping_kind) {}
  ~stepping_op() = default;

  // Nothing was thrown on the way, nothing failed, and nobody stopped it.
  bool complete() const noexcept { return thrown_ == nullptr && !stopped_ && !failure_.has_value(); }
  // For take(): throws what a step threw that is neither an error of the system nor a cancellation.
  void check_thrown() const {
    if (thrown_ != nullptr) std::rethrow_exception(thrown_);
  }
  // Stopped by a cancellation before all was done.
  bool stopped() const noexcept { return stopped_; }
  const std::optional<std::error_code>& failure() const noexcept { return failure_; }
  // For the text of an error: in which step, on what.
  std::string where_failed() const {
    std::string text(Derived::name);
    describe(text);
    return text;
  }
  // For moved(): that was no progress.
  void fail(std::errc why) noexcept { failure_ = std::make_error_code(why); }
  // For next(): there is more to do, by what `make` gives. The stream that it asks may be gone.
  template <class Make>
  void step(Make make) {
    if (stopping_) {
      stopped_ = true;
    } else if (closed_) {
      fail(std::errc::bad_file_descriptor);
    } else {
      step_.emplace(make());
      if (stopping_) [[unlikely]] {
        step_.reset();
        stopped_ = true;
      }
    }
  }

 private:
  Derived& self() noexcept { return static_cast<Derived&>(*this); }
  // Of the step under way.
  abort_answer abort_step() noexcept {
    const abort_answer answer = step_->abort();
    if (answer == abort_answer::now) {
      under_way_ = false;
      step_.reset();
    }
    return answer;
  }
  void forget_last() noexcept {
    // Not closed_: the stream may be gone.
    stopping_ = stopped_ = told_at_once_ = false;
    failure_.reset();
    thrown_ = nullptr;
    self().again();
  }

  // True: a step is under way, or will be in the next turn.
  bool go_on() { return make_step() && take_steps(); }
  bool make_step() {
    step_.reset();
    self().next();
    return step_.has_value();
  }
  // A call of its own, which the end of the last step does without.
  [[gnu::noinline]] bool take_steps() {
    for (unsigned at_once = 1;; ++at_once) {
      if (step_->start(*this) && !std::exchange(told_at_once_, false)) {
        under_way_ = true;
        if (!stopping_ || abort_step() == abort_answer::later) return true;
        stopped_ = true;
        return false;
      }
      if (!finish_step()) return false;
      // Steps that all finish at once are a fiber's share too: others run before the rest of them.
      if (at_once >= steps_per_share && (loop_ = loop::current()) != nullptr) {
        step_.reset();
        loop_->arm(later_, instant::min());
        return true;
      }
      if (!make_step()) return false;
    }
  }
  // False: it failed, or was withdrawn.
  bool finish_step() {
    // Whatever came of it: a step of a closed stream may have moved something all the same, and be the last.
    if constexpr (requires { step_->closed_under(); }) closed_ = step_->closed_under();
    try {
      const result<std::size_t> moved = step_->take_result();
      if (!moved) {
        failure_ = moved.error();
        return false;
      }
      self().moved(*moved);
      return !failure_.has_value();
    } catch (const cancelled&) {
      stopped_ = true;
      return false;
    }
  }
  static void step_done(waiter& which) noexcept {
    auto& mine = static_cast<stepping_op&>(which);
    if (!std::exchange(mine.under_way_, false)) [[unlikely]] {
      // In its own start(), which must return before the next one takes its place.
      mine.told_at_once_ = true;
      return;
    }
    mine.continue_with([](stepping_op& self) { return self.finish_step() && self.go_on(); });
  }
  static void resume(timer_node& which) noexcept {
    static_cast<continuation&>(which).whose->continue_with(
        [](stepping_op& self) { return self.go_on(); });
  }
  template <class Go>
  void continue_with(Go go) noexcept {
    if (!guarded(go)) told_->done();
  }
  // False: it is over. What is thrown on the way is kept for take(), which is on the waiter's side.
  template <class Go>
  bool guarded(Go go) noexcept {
    try {
      return go(*this);
    } catch (const std::system_error& error) {
      failure_ = error.code();
    } catch (const std::bad_alloc&) {
      failure_ = std::make_error_code(std::errc::not_enough_memory);
    } catch (...) {
      thrown_ = std::current_exception();
    }
    return false;
  }
  static constexpr waiter_kind stepping_kind{step_done};
  static constexpr unsigned steps_per_share = 64;

  struct continuation : timer_node {
    explicit continuation(stepping_op* op) noexcept : timer_node(resume), whose(op) {}
    stepping_op* whose;
  };

  waiter* told_ = nullptr;
  loop* loop_ = nullptr;  // while later_ is armed
  continuation later_{this};
  std::optional<Step> step_;
  std::optional<std::error_code> failure_;
  std::exception_ptr thrown_;
  bool under_way_ = false;  // a step was started and is not over
  bool told_at_once_ = false;
  bool stopping_ = false;  // whoever waits was cancelled
  bool stopped_ = false;   // ... and that came before all was done
  bool closed_ = false;  // the stream was, under the latest step
};

template <class Stream>
class [[nodiscard("co_await it, or coir::await(it)")]] write_all_op
    : public stepping_op<write_all_op<Stream>, write_step<Stream>> {
 public:
  static constexpr const char* name = "write_all";

  write_all_op(Stream& to, std::span<const std::byte> bytes) noexcept
      : to_(&to), bytes_(bytes) {}

  void take() const {
    if (!this->complete()) [[unlikely]]
      throw_incomplete();
  }
  result<void> take_result() const {
    this->check_thrown();
    if (this->stopped()) throw cancellation();
    if (this->failure()) return unexpected<std::error_code>(*this->failure());
    return {};
  }
  cancelled cancellation() const noexcept { return cancelled(done_); }

  void next() {
    if (done_ != bytes_.size()) this->step([this] { return to_->write_some(bytes_.subspan(done_)); });
  }
  void moved(std::size_t bytes) noexcept {
    done_ += bytes;
    // A stream that takes nothing more would be asked for ever.
    if (bytes == 0) this->fail(std::errc::broken_pipe);
  }
  void again() noexcept {}

 private:
  [[noreturn, gnu::cold, gnu::noinline]] void throw_incomplete() const {
    this->check_thrown();
    if (this->stopped()) throw cancellation();
    throw partial_error(*this->failure(), this->where_failed(), done_);
  }

  Stream* to_;
  std::span<const std::byte> bytes_;
  std::size_t done_ = 0;
};

// All of `bytes`, in as many steps as it takes. They must stay until it is over.
template <writable_stream Stream>
write_all_op<Stream> write_all(Stream& to, std::span<const std::byte> bytes) noexcept {
  return {to, bytes};
}
template <writable_stream Stream>
write_all_op<Stream> write_all(Stream& to, std::string_view text) noexcept {
  return {to, std::as_bytes(std::span(text))};
}

template <class Stream>
class [[nodiscard("co_await it, or coir::await(it)")]] read_exactly_op
    : public stepping_op<read_exactly_op<Stream>, read_step<Stream>> {
 public:
  static constexpr const char* name = "read_exactly";

  read_exactly_op(Stream& from, std::span<std::byte> into) noexcept : from_(&from), into_(into) {}

  std::size_t take() const {
    this->check_thrown();
    if (this->stopped()) throw cancellation();
    if (this->failure()) throw partial_error(*this->failure(), this->where_failed(), done_);
    return done_;
  }
  result<std::size_t> take_result() const {
    this->check_thrown();
    if (this->stopped()) throw cancellation();
    if (this->failure()) return unexpected<std::error_code>(*this->failure());
    return done_;
  }
  cancelled cancellation() const noexcept { return cancelled(done_); }

  void next() {
    if (!ended_ && done_ != into_.size()) this->step([this] { return from_->read_some(into_.subspan(done_)); });
  }
  void moved(std::size_t bytes) noexcept {
    done_ += bytes;
    ended_ = bytes == 0;
  }
  void again() noexcept { ended_ = false; }

 private:
  Stream* from_;
  std::span<std::byte> into_;
  std::size_t done_ = 0;
  bool ended_ = false;
};

// Fills `into`, unless the stream ends before: then the count is less than asked.
template <readable_stream Stream>
read_exactly_op<Stream> read_exactly(Stream& from, std::span<std::byte> into) noexcept {
  return {from, into};
}

// What a buffered_reader looks for in its buffer.
class read_goal {
 public:
  static read_goal bytes(std::size_t count) noexcept { return read_goal({}, count); }
  static read_goal delimiter(std::string_view delimiter, std::size_t limit) noexcept {
    return read_goal(delimiter, limit);
  }

  // How many bytes of `seen` make up what is looked for; nothing: it is not there yet.
  std::optional<std::size_t> found_in(std::span<const std::byte> seen) noexcept;
  // No use in reading on. When there is just as much as the limit allows, without a delimiter, the stream
  // may still end here.
  bool hopeless(std::size_t seen) const noexcept { return seen > limit_; }
  void search_all() noexcept { searched_ = 0; }
  std::size_t limit() const noexcept { return limit_; }
  std::string_view delimiter() const noexcept { return delimiter_; }

 private:
  read_goal(std::string_view delimiter, std::size_t limit) noexcept
      : delimiter_(delimiter), limit_(limit) {}

  std::string_view delimiter_;  // empty: a count of bytes, which is the limit
  std::size_t limit_;
  std::size_t searched_ = 0;  // bytes that are known not to begin a delimiter
};

[[noreturn]] void throw_too_long(const read_goal& goal);

template <readable_stream Stream>
class buffered_reader {
 public:
  static constexpr std::size_t line_limit = 64 * 1024;

  explicit buffered_reader(Stream& from, std::size_t buffer_bytes = 4096)
      : from_(&from), buffer_(buffer_bytes == 0 ? 1 : buffer_bytes) {}
  buffered_reader(const buffered_reader&) = delete;

  // What was read and not yet taken. Valid, like all views from here, until the next call.
  std::span<const std::byte> buffered() const noexcept {
    return {buffer_.data() + begin_, end_ - begin_};
  }
  // Takes `count` bytes of buffered() away.
  void consume(std::size_t count) {
    if (count > end_ - begin_) throw_misuse("more was consumed than is buffered");
    begin_ += count;
  }

  template <class Take>
  class [[nodiscard("co_await it, or coir::await(it)")]] seek_op
      : public stepping_op<seek_op<Take>, read_step<Stream>> {
   public:
    static constexpr const char* name = Take::name;

    seek_op(buffered_reader& reader, read_goal goal) noexcept : reader_(&reader), goal_(goal) {}

    auto take() {
      this->check_thrown();
      if (this->stopped()) throw cancelled();
      if (this->failure()) throw std::system_error(*this->failure(), this->where_failed());
      // Nothing was taken out of the buffer: the caller may go on with a larger limit.
      if (!found_ && !ended_) throw_too_long(goal_);
      return Take::from(*reader_, found_);
    }

    void next() {
      const std::span<const std::byte> seen = reader_->buffered();
      found_ = goal_.found_in(seen);
      if (found_ || ended_ || goal_.hopeless(seen.size())) return;
      this->step([this] { return reader_->from_->read_some(reader_->room(goal_.limit())); });
    }
    void moved(std::size_t bytes) noexcept {
      reader_->end_ += bytes;
      ended_ = bytes == 0;
    }
    // The buffer may have been read from meanwhile.
    void again() noexcept {
      goal_.search_all();
      ended_ = false;
    }

   private:
    buffered_reader* reader_;
    read_goal goal_;
    std::optional<std::size_t> found_;
    bool ended_ = false;
  };

  // At least one byte, at most as many as `into` has; 0 at the end of the stream. What is buffered comes
  // first, so that a reader is itself a stream. Small reads fill the buffer, large ones go around it.
  class [[nodiscard("co_await it, or coir::await(it)")]] read_op
      : public stepping_op<read_op, read_step<Stream>> {
   public:
    static constexpr const char* name = "read_some";
    read_op(buffered_reader& reader, std::span<std::byte> into) noexcept
        : reader_(&reader), into_(into) {}

    std::size_t take() {
      const result<std::size_t> got = take_result();
      if (!got) throw std::system_error(got.error(), this->where_failed());
      return *got;
    }
    result<std::size_t> take_result() {
      this->check_thrown();
      if (this->stopped()) throw cancelled();
      if (this->failure()) return unexpected<std::error_code>(*this->failure());
      return count_;
    }
    void next() {
      if (over_ || into_.empty()) return;
      if (reader_->buffered().empty()) {
        fills_ = into_.size() < reader_->buffer_.size();
        this->step([this] { return reader_->from_->read_some(fills_ ? reader_->room(0) : into_); });
        return;
      }
      const std::span<const std::byte> seen = reader_->buffered();
      count_ = std::min(seen.size(), into_.size());
      std::copy_n(seen.begin(), count_, into_.begin());
      reader_->cut(count_);
    }
    void moved(std::size_t bytes) noexcept {
      if (fills_) {
        reader_->end_ += bytes;
        over_ = bytes == 0;
      } else {
        count_ = bytes;
        over_ = true;
      }
    }
    void again() noexcept {
      count_ = 0;
      over_ = false;
    }

   private:
    buffered_reader* reader_;
    std::span<std::byte> into_;
    std::size_t count_ = 0;
    bool fills_ = false;
    bool over_ = false;
  };
  read_op read_some(std::span<std::byte> into) noexcept { return {*this, into}; }

  struct take_until {
    static constexpr const char* name = "read_until";
    static std::span<const std::byte> from(buffered_reader& reader,
                                           std::optional<std::size_t> found) noexcept {
      // Without the delimiter at the end of the stream: what there is.
      return reader.cut(found.value_or(reader.buffered().size()));
    }
  };
  // Up to and including `delimiter`; at the end of the stream the rest without one, then nothing. At most
  // `limit` bytes, delimiter included; if there are more, they stay buffered. `delimiter` must stay until it
  // is over.
  seek_op<take_until> read_until(std::string_view delimiter,
                                 std::size_t limit = line_limit) {
    if (delimiter.empty()) throw_misuse("read_until was given an empty delimiter");
    return {*this, read_goal::delimiter(delimiter, limit)};
  }

  struct take_line {
    static constexpr const char* name = "read_line";
    static std::optional<std::string_view> from(buffered_reader& reader,
                                                std::optional<std::size_t> found) noexcept {
      const std::size_t size = found.value_or(reader.buffered().size());
      if (size == 0) return std::nullopt;
      const std::span<const std::byte> bytes = reader.cut(size);
      std::string_view line(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      if (found) line.remove_suffix(1);
      if (found && !line.empty() && line.back() == '\r') line.remove_suffix(1);
      return line;
    }
  };
  // The next line without its end ("\n" or "\r\n"); empty at the end of the stream. A last line without an
  // end is a line. The end counts for the limit.
  seek_op<take_line> read_line(std::size_t limit = line_limit) noexcept {
    return {*this, read_goal::delimiter("\n", limit)};
  }

  struct look {
    static constexpr const char* name = "peek";
    static std::span<const std::byte> from(buffered_reader& reader,
                                           std::optional<std::size_t> found) noexcept {
      return reader.buffered().first(found.value_or(reader.buffered().size()));
    }
  };
  // The next `count` bytes, which stay; fewer at the end of the stream.
  seek_op<look> peek(std::size_t count) noexcept { return {*this, read_goal::bytes(count)}; }

 private:
  // Takes away; the bytes stay where they are until the next read.
  std::span<const std::byte> cut(std::size_t count) noexcept {
    const std::span<const std::byte> bytes = buffered().first(count);
    begin_ += count;
    return bytes;
  }
  // Free memory behind what is buffered: at least a byte. The buffer grows to hold `wanted`.
  std::span<std::byte> room(std::size_t wanted) {
    if (begin_ == end_) begin_ = end_ = 0;
    // To the front, where that gains more than is left behind: no reads of a few bytes.
    if (begin_ != 0 && begin_ >= buffer_.size() - end_) {
      std::copy(buffer_.begin() + static_cast<std::ptrdiff_t>(begin_),
                buffer_.begin() + static_cast<std::ptrdiff_t>(end_), buffer_.begin());
      end_ -= begin_;
      begin_ = 0;
    }
    if (end_ == buffer_.size()) {
      buffer_.resize(buffer_.size() * 2 < wanted ? buffer_.size() * 2
                                                 : std::max(wanted, buffer_.size() + 1));
    }
    return std::span(buffer_).subspan(end_);
  }

  Stream* from_;
  std::vector<std::byte> buffer_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
};

}  // namespace coir::io
