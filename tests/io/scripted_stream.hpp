// A stream whose steps do what a test says, when it says so.
//
//   scripted_stream stream;
//   stream.source = "hello";                       // for reads; what is written comes into stream.sunk
//   stream.steps = {{3}, {2, later}, {-ECONNRESET}};   // then: everything at once
#pragma once

#include <coir/coir.hpp>

#include "support/catch.hpp"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <span>
#include <string>
#include <utility>

namespace support {

// told_at_once: it says that it is done before its start() has returned.
enum class when { at_once, told_at_once, later };

// What the stream is about to do for a step.
enum class moment { asked, starts, gives };

class scripted_stream {
 public:
  // At most so many bytes; 0: none, the end of the stream; below: minus an errno.
  struct step {
    int result = 1 << 30;
    when finishes = when::at_once;
  };

  std::string source;
  std::string sunk;
  std::deque<step> steps;
  coir::abort_answer answer = coir::abort_answer::now;
  unsigned started = 0;
  unsigned aborts = 0;
  std::exception_ptr thrown;  // by the start of the next step
  // Called for step number 0, 1, ...
  std::function<void(moment, unsigned)> during = [](moment, unsigned) {};

  class op {
   public:
    static constexpr const char* name = "scripted";
    op(scripted_stream& of, std::span<std::byte> into) : op(of) { into_ = into; }
    op(scripted_stream& of, std::span<const std::byte> from) : op(of) { from_ = from; }

    bool start(coir::waiter& told) {
      ++of_->started;
      of_->during(moment::starts, number_);
      if (of_->thrown != nullptr) std::rethrow_exception(std::exchange(of_->thrown, nullptr));
      step next;
      if (!of_->steps.empty()) {
        next = of_->steps.front();
        of_->steps.pop_front();
      }
      limit_ = next.result;
      if (next.finishes == when::at_once) {
        move();
        return false;
      }
      if (next.finishes == when::told_at_once) {
        move();
        told.done();
        return true;
      }
      told_ = &told;
      of_->pending_ = this;
      return true;
    }
    coir::abort_answer abort() noexcept {
      ++of_->aborts;
      if (of_->answer == coir::abort_answer::now) of_->pending_ = nullptr;
      return of_->answer;
    }
    std::size_t take() { return take_result().value(); }
    coir::result<std::size_t> take_result() {
      of_->during(moment::gives, number_);
      if (stopped_) throw coir::cancelled();
      if (limit_ < 0) return coir::unexpected<std::error_code>(coir::error_of(-limit_));
      return moved_;
    }

   private:
    friend class scripted_stream;
    explicit op(scripted_stream& of) : of_(&of), number_(of.asked_++) { of.during(moment::asked, number_); }
    void move() {
      if (limit_ <= 0) return;
      const auto most = static_cast<std::size_t>(limit_);
      if (from_.data() != nullptr) {
        moved_ = std::min(most, from_.size());
        of_->sunk.append(reinterpret_cast<const char*>(from_.data()), moved_);
      } else {
        moved_ = std::min({most, into_.size(), of_->source.size()});
        std::copy_n(of_->source.begin(), moved_, reinterpret_cast<char*>(into_.data()));
        of_->source.erase(0, moved_);
      }
    }

    scripted_stream* of_;
    unsigned number_;
    std::span<std::byte> into_;
    std::span<const std::byte> from_;
    coir::waiter* told_ = nullptr;
    int limit_ = 0;
    std::size_t moved_ = 0;
    bool stopped_ = false;
  };

  op read_some(std::span<std::byte> into) { return {*this, into}; }
  op write_some(std::span<const std::byte> from) { return {*this, from}; }

  // A step is under way.
  bool waits() const { return pending_ != nullptr; }
  // It does what the script said.
  void finish() {
    REQUIRE(waits());
    op& over = *std::exchange(pending_, nullptr);
    over.move();
    over.told_->done();
  }
  // It was asked to stop, and did.
  void finish_stopped() {
    REQUIRE(waits());
    op& over = *std::exchange(pending_, nullptr);
    over.stopped_ = true;
    over.told_->done();
  }

 private:
  op* pending_ = nullptr;
  unsigned asked_ = 0;
};

static_assert(coir::io::byte_stream<scripted_stream>);

// Bytes that are all different from their neighbours, and where they should be.
inline std::string pattern(std::size_t size) {
  std::string text(size, '\0');
  for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i * 31 + i / 251);
  return text;
}

}  // namespace support
